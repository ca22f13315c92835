"""The answer sheet: self-contained, escaped, honest about what is not known."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import phantoms
import pytest
from PIL import Image

from tumorsim import Case, Cohort, Tumor
from tumorsim.answers import summarize, votes
from tumorsim.report import save_report


@pytest.fixture(scope="module")
def cohort():
    """Return five phantom tumors, one a scan."""
    return phantoms.cohort(5)


def _answer(cohort, query=0):
    """Return the other tumors of a cohort as an answer to one of them."""
    table = cohort.table.drop(index=query).reset_index(drop=True)
    ranks = range(1, len(table) + 1)
    return pd.concat(
        [pd.DataFrame({"query": 0, "rank": ranks, "distance": np.arange(1.0, len(table) + 1)}), table], axis=1
    )


class _Page(HTMLParser):
    """Collect tags with attributes, and text outside of style."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self._open = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" not in self._open:
            self.text += data

    def all(self, name):
        return [attrs for tag, attrs in self.tags if tag == name]


def _page(path):
    return _Page(path.read_text(encoding="utf-8"))


def test_a_picture_a_plane_and_tumor(cohort, tmp_path):
    """Query and neighbors have three square gray pictures each, with outline, scale and marks."""
    path = save_report(tmp_path / "a.html", query=cohort[0], neighbors=_answer(cohort), archive=cohort)
    page = _page(path)
    images = page.all("image")
    assert len(images) == 3 * len(cohort)
    for attrs in images:
        raw = base64.b64decode(attrs["href"].removeprefix("data:image/png;base64,"))
        image = Image.open(io.BytesIO(raw))
        assert image.mode == "L" and image.size[0] == image.size[1] == int(attrs["width"])
    assert len([a for a in page.all("path") if a["class"] == "outline"]) == len(images)
    assert len({a["width"] for a in page.all("rect") if a["class"] == "bar"}) == 1  # one scale for all
    assert page.text.count("R") >= 2 * len(cohort)


def test_outline_surrounds_the_tumor(cohort, tmp_path):
    """The path's extent in millimetres is that of the tumor's box, in every plane."""
    tumor = cohort[0]
    page = _page(save_report(tmp_path / "a.html", query=tumor, neighbors=_answer(cohort)[:0]))
    sides = (tumor.bbox[1] - tumor.bbox[0]) * tumor.case.spacing
    n = int(page.all("image")[0]["width"])
    pixel_mm = (sides.max() + 60) / n
    for attrs, (across, down) in zip(page.all("path"), ((0, 1), (0, 2), (1, 2)), strict=True):
        points = np.array(re.findall(r"([\d.]+) ([\d.]+)", attrs["d"]), dtype=float)
        np.testing.assert_allclose(
            np.ptp(points, axis=0) * pixel_mm, sides[[across, down]], atol=2 * pixel_mm
        )


def test_nothing_is_loaded_or_run(cohort, tmp_path):
    """The policy forbids every load but data pictures, and there is no script and no outer address."""
    path = save_report(tmp_path / "a.html", query=cohort[0], neighbors=_answer(cohort), archive=cohort)
    page = _page(path)
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "script" not in policy
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    links = [v for _, attrs in page.tags for name, v in attrs.items() if name in ("src", "href")]
    assert all(link.startswith("data:image/png") for link in links)
    assert "http://" not in path.read_text() and "https://" not in path.read_text()


def test_text_of_manifests_is_escaped(tmp_path):
    """Markup in ids, labels, columns and settings is shown, never obeyed."""
    evil = "<script>alert(1)</script><img src=x onerror=y>"
    tumor = phantoms.scan("s", [("meningioma", (20, 22, 17), (3, 4, 5))])[0]
    query = Tumor(tumor.case, tumor.bbox, tumor_id=evil, labels={"type": evil})
    answer = pd.DataFrame({"query": [0], "rank": [1], "distance": [0.5], "tumor_id": [evil], "note": [evil]})
    answer["label_type"] = evil
    page = _page(
        save_report(
            tmp_path / "a.html",
            query=query,
            neighbors=answer,
            settings={"Where": evil},
            show=["note"],
            archive_name=evil,
        )
    )
    assert not page.all("script") and not page.all("img")
    assert page.text.count(evil.replace("_", " ")) >= 6


def test_labels_are_compared_only_where_known(cohort, tmp_path):
    """Same, differing and unknown labels are told apart, by word and sign."""
    answer = _answer(cohort)[:3].copy()
    answer["label_type"] = ["meningioma", "metastasis", None]
    answer = answer[["query", "rank", "distance", "tumor_id", "label_type"]]
    page = _page(save_report(tmp_path / "a.html", query=cohort[0], neighbors=answer))
    assert page.text.count("✓ same") == 1 and page.text.count("≠ differs") == 1
    assert "not known" in page.text
    assert "Type: meningioma 1, metastasis 1, not known 1" in " ".join(page.text.split())


def test_sizes_have_units(cohort, tmp_path):
    """Volume is in ml and sides in mm, right-left first, whatever the storage."""
    tumor = phantoms.scan("s", [("meningioma", (20, 22, 17), (3, 4, 5))], orientation="PIR")[0]
    text = " ".join(
        _page(save_report(tmp_path / "a.html", query=tumor, neighbors=_answer(cohort)[:0])).text.split()
    )
    assert f"{tumor.measure()['volume_mm3'] / 1000:.3g} ml" in text
    assert "14 × 18 × 22 mm" in text  # 7, 9 and 11 voxels of 2 mm
    assert "Thick slices" not in text


def test_thick_slices_and_boxes_are_said(tmp_path, cohort):
    """A slice of more than 3 mm carries a warning; without a mask the volume is that of the box, dashed."""
    affine = np.diag([1.0, 1.0, 6.0, 1.0])
    case = Case(
        (np.random.default_rng(0).normal(size=(40, 40, 12)).astype(np.float32), affine),
        case_id="c",
        patient_id="p",
    )
    tumor = Tumor(case, [(10, 10, 4), (20, 22, 7)], tumor_id="c/1")
    page = _page(save_report(tmp_path / "a.html", query=tumor, neighbors=_answer(cohort)[:0]))
    assert "Thick slices" in page.text and "ellipsoid in the box" in page.text
    assert [a["class"] for a in page.all("rect") if "outline" in a["class"]] == ["outline dashed"] * 3
    assert "No tumor of the archive meets the conditions" in page.text


def test_a_missing_scan_is_a_warning_not_an_end(cohort, tmp_path):
    """A neighbor whose file has gone is listed without pictures, and its path is not shown."""
    gone = Tumor(
        Case(tmp_path / "secret-name.nii.gz", case_id="s1", patient_id="p"),
        cohort[1].bbox,
        tumor_id=cohort[1].tumor_id,
    )
    with pytest.warns(UserWarning, match="No picture of tumor 's1/1'"):
        path = save_report(
            tmp_path / "a.html", query=cohort[0], neighbors=_answer(cohort)[:1], archive=[gone]
        )
    page = _page(path)
    assert "No picture" in page.text and len(page.all("image")) == 3
    assert "secret-name" not in path.read_text()


def test_disclaimer_fits_the_weights(cohort, tmp_path):
    """The sheet says that weights come from simulated tumors only where they do."""
    answer = _answer(cohort)[:1]
    plain = save_report(
        tmp_path / "a.html", query=cohort[0], neighbors=answer, model_info={"Model": "m"}
    ).read_text()
    told = save_report(
        tmp_path / "b.html", query=cohort[0], neighbors=answer, model_info={"pretrained_on_simulated": True}
    ).read_text()
    for text in (plain, told):
        assert "Research use only; not for diagnosis or treatment." in text
        assert "an archive holds only patients who were treated." in text
    assert "Pretrained mostly" not in plain and "Pretrained mostly on simulated tumors." in told


def test_file_stays_small(tmp_path):
    """Twenty neighbors of noise, the worst there is to compress, stay under 1 MB."""
    rng = np.random.default_rng(0)
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    case = Case(
        (rng.integers(0, 4000, (100, 100, 100)).astype(np.int16), affine), case_id="c", patient_id="p"
    )
    tumors = Cohort(Tumor(case, [(30, 30, 30), (70, 70, 70)], tumor_id=f"c/{i}") for i in range(21))
    path = save_report(tmp_path / "a.html", query=tumors[0], neighbors=_answer(tumors), archive=tumors)
    assert path.stat().st_size < 1_000_000
    assert len(_page(path).all("image")) == 63


def test_several_queries_have_a_section_each(cohort, tmp_path):
    """Neighbors stand under the query that they answer."""
    answer = pd.concat(
        [_answer(cohort)[:1], _answer(cohort)[1:3].assign(query=1, rank=[1, 2])], ignore_index=True
    )
    page = _page(save_report(tmp_path / "a.html", query=cohort[:2], neighbors=answer, archive=cohort))
    assert len(page.all("section")) == 2
    assert "Query 1 of 2" in page.text and "2 nearest tumors" in page.text


def test_wrong_arguments_leave_no_file(cohort, tmp_path):
    """An unknown column or neighbors of other queries are refused, and nothing is written."""
    with pytest.raises(ValueError, match="'show' must name columns"):
        save_report(tmp_path / "a.html", query=cohort[0], neighbors=_answer(cohort), show=["dose"])
    with pytest.raises(ValueError, match="1 query tumors"):
        save_report(tmp_path / "a.html", query=cohort[0], neighbors=_answer(cohort).assign(query=3))
    assert not list(tmp_path.iterdir())


def test_closeness_votes_and_summary_are_told(cohort, tmp_path):
    """What the tables say stands in the sheet in words, escaped, with aspects at each neighbor."""
    answer = _answer(cohort).assign(
        p_value=0.02, no_close_match=True, closer_than_size=0.9, closer_than_type=0.1, note="<b>"
    )
    tables = {"votes": votes(answer, cohort.table), "summary": summarize(answer, ["volume_mm3", "note"])}
    page = _page(save_report(tmp_path / "a.html", query=cohort[0], neighbors=answer, **tables))
    assert "No close match: farther from its nearest case than 98 %" in page.text
    assert page.text.count("Agrees in size, not in type") == len(answer)
    assert "no vote (no close match)" in page.text and "volume_mm3: median" in page.text
    assert f"note: <b> {len(answer)} (n = {len(answer)})" in page.text and "no recommendation" in page.text
    plain = _page(save_report(tmp_path / "b.html", query=cohort[0], neighbors=_answer(cohort)))
    assert "nearest case" not in plain.text and "no recommendation" not in plain.text
