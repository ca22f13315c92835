"""The answer sheet: self-contained, escaped, honest about what is not known."""

import base64
import gzip
import hashlib
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import phantoms
import pytest
from PIL import Image

from tumorsim import Case, Cohort, Tumor, TumorIndex
from tumorsim.answers import summarize, votes
from tumorsim.records import read_surroundings
from tumorsim.rendering import COLORS, color_numbers
from tumorsim.report import render_report, save_report
from tumorsim.report._neighborhood import Neighborhood
from tumorsim.report._voxels import encode_voxels


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
    """Collect tags with attributes, and text outside of style and script."""

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
        if not {"style", "script"} & set(self._open):
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
    """The policy allows data pictures and the page's own script and style, by hash; no address leads out."""
    path = save_report(tmp_path / "a.html", query=cohort[0], neighbors=_answer(cohort), archive=cohort)
    page = _page(path)
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "unsafe" not in policy
    text = path.read_text(encoding="utf-8")
    for tag in ("script", "style"):
        source = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = hashlib.sha256(source[0].encode()).digest()
        assert len(source) == 1 and f"'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert all(a.get("type") == "text/plain" for a in page.all("script")[:-1])
    assert not page.all("link") and not page.all("iframe") and ' style="' not in text
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
    assert len([a for a in page.all("script") if not a]) == 1 and not page.all("img")
    assert "alert(1)</script>" not in (tmp_path / "a.html").read_text()
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
    assert "thick slices" not in text.lower()


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
    assert "thick slices, 6 mm" in page.text.lower() and "from the box" in page.text
    beside = _Page(render_report(query=tumor, neighbors=_answer(cohort)[:1]))
    said = "Size about 1.1 ml from the box. Neighbors: 1.53 ml (1.4 times the query)"
    assert said in " ".join(beside.text.split())
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


def _noise(n, shape=(120, 120, 120)):
    """Return tumors of one scan of noise, boxed so that all of it is shown."""
    image = np.random.default_rng(0).integers(0, 4000, shape).astype(np.int16)
    case = Case((image, np.eye(4)), case_id="c", patient_id="p")
    box = [(30, 30, 30), np.array(shape) - 30]
    return Cohort(Tumor(case, box, tumor_id=f"c/{i}") for i in range(n))


def test_file_stays_small(tmp_path):
    """Tumors of noise, the worst there is to compress, take less than 1 MB each."""
    tumors = _noise(2)
    path = save_report(tmp_path / "a.html", query=tumors[0], neighbors=_answer(tumors), archive=tumors)
    assert 1_000_000 < path.stat().st_size < 2_000_000
    assert len(_page(path).all("image")) == 6


def _voxels(path, number=0):
    """Return levels, mask and view of a tumor of a sheet, unpacked as the script does."""
    pattern = r"class=\"voxels\" id=\".*?\" data-view='(.*?)'>(.*?)</script>"
    view, packed = re.findall(pattern, path.read_text())[number]
    view, raw = json.loads(view), np.frombuffer(gzip.decompress(base64.b64decode(packed)), np.uint8)
    n = int(np.prod(view["shape"]))
    levels = np.cumsum(raw[:n], dtype=np.uint8).reshape(view["shape"], order="F")
    return levels, raw[n:].reshape(view["shape"], order="F") if view["mask"] else None, view


@pytest.fixture
def nobody():
    """Return an answer without neighbors."""
    return pd.DataFrame({"query": [], "rank": [], "distance": [], "tumor_id": []})


@pytest.mark.parametrize("orientation", ["RAS", "PIL"])
def test_voxels_are_those_of_the_scan(tmp_path, nobody, orientation):
    """Levels follow intensities, the mask is the tumor, and planes cross in it, however it is stored."""
    lesion = [("meningioma", (20, 22, 17), (3, 4, 5))]
    plain, tumor = (phantoms.scan("s", lesion, orientation=o)[0] for o in ("RAS", orientation))
    levels, mask, view = _voxels(save_report(tmp_path / "a.html", query=tumor, neighbors=nobody, margin_mm=8))
    around = tuple(slice(a - 4, b + 4) for a, b in plain.bbox.T)  # 8 mm in voxels of 2 mm
    np.testing.assert_array_equal(mask > 0, plain.case.load_mask()[around] > 0)
    image = plain.case.load_image()[around]
    brain = image > 0
    assert not levels[~brain].any() and levels[brain].min() >= 1
    assert np.corrcoef(levels[brain], image[brain])[0, 1] > 0.999  # a few voxels beyond the percentiles
    assert mask[tuple(view["through"])] and view["spacing"] == [2.0, 2.0, 2.0]
    np.testing.assert_allclose(view["box"], [(4, 4, 4), np.array(mask.shape) - 4])


def test_no_voxel_lies_farther_than_the_margin(tmp_path, nobody):
    """Whole heads have faces: what is embedded ends at the margin, unless the whole scan is asked for."""
    tumor = phantoms.scan("s", [("meningioma", (20, 22, 17), (3, 4, 5))])[0]
    sheets = {
        full: save_report(tmp_path / f"{full}.html", query=tumor, neighbors=nobody, margin_mm=10, full=full)
        for full in (False, True)
    }
    sides = (tumor.bbox[1] - tumor.bbox[0]) * 2 + 20
    view = _voxels(sheets[False])[2]
    assert (np.array(view["shape"]) * view["spacing"] <= sides).all()
    assert _voxels(sheets[True])[2]["shape"] == list(phantoms.SHAPE)
    assert "shows faces" in sheets[True].read_text() and "shows faces" not in sheets[False].read_text()


def test_scans_too_fine_become_coarser_where_they_are_fine():
    """Where voxels must be saved the thick slices stay, and mask and box keep their place in millimetres."""
    shape, spacing = (120, 120, 20), np.array([0.5, 0.5, 3.0])
    mask = phantoms.ball(shape, (60, 50, 10), (12, 16, 4)).astype(np.uint8)
    image = np.random.default_rng(0).normal(100, 20, shape).astype(np.float32)
    affine = np.diag([*spacing, 1.0])
    case = Case((image, affine), (mask, affine), case_id="c", patient_id="p")
    found = np.argwhere(mask)
    near = read_surroundings(Tumor(case, [found.min(axis=0), found.max(axis=0) + 1], tumor_id="c/1"))
    result = encode_voxels(near, 80, 60_000)
    raw = np.frombuffer(gzip.decompress(base64.b64decode(result["packed"])), np.uint8)
    view = result["view"]
    new = np.array(view["spacing"])
    assert len(result["packed"]) <= 80_000 and new[2] == 3.0 and (new[:2] > 0.5).all()
    coarse = raw[np.prod(view["shape"]) :].reshape(view["shape"], order="F") > 0
    assert coarse.sum() * new.prod() == pytest.approx(near.lesion.sum() * spacing.prod(), rel=0.05)
    center = (np.argwhere(coarse).mean(axis=0) + 0.5) * new
    np.testing.assert_allclose(center, (np.argwhere(near.lesion).mean(axis=0) + 0.5) * spacing, atol=0.3)
    np.testing.assert_allclose(np.array(view["box"]) * new, near.bbox * spacing, atol=0.01)


def test_the_archive_is_drawn_around_the_answer(cohort, tmp_path):
    """With the index the sheet has map, sizes and types, and counts the lesions of each neighbor's scan."""
    lesions = [("meningioma", (12, 22, 17), (3, 3, 3)), ("meningioma", (28, 22, 17), (3, 4, 3))]
    two = phantoms.scan("t", lesions)
    archive = Cohort([*cohort[1:], *two])
    X = np.random.default_rng(0).normal(size=(len(archive), 4)).astype(np.float32)
    index = TumorIndex().fit(X, metadata=archive.table)
    asked = {"query": cohort[0], "neighbors": index.search(X[-1:], 3), "archive": archive, "index": index}
    page = _page(save_report(tmp_path / "a.html", **asked, query_X=X[-1:]))
    assert "Map of the archive" in page.text and f"{len(archive)} tumors, numbered" in page.text
    dots = [a["d"].count("h0") for a in page.all("path") if a["class"].startswith("dots")]
    assert sum(dots) == len(archive) and len(page.all("circle")) == 3
    volume = sum(tumor.measure()["volume_mm3"] for tumor in two) / 1000
    assert f"2 lesions, {volume:.3g} ml in all" in page.text
    assert "Type: neighbors and archive" in page.text and "Size: query" in page.text
    number = color_numbers(["meningioma"])["meningioma"]
    assert f'class="color{number}">●</span> meningioma' in (tmp_path / "a.html").read_text()
    assert f"--color{number}: {COLORS[number]};" in (tmp_path / "a.html").read_text()
    with pytest.raises(ValueError, match="needs 'query_X'"):
        save_report(tmp_path / "b.html", **asked)


def test_map_follows_the_metric_of_the_index():
    """Cosine does not see the length of vectors; whitened, no feature has more of the spread than another."""
    X = np.random.default_rng(2).normal(size=(200, 2)).astype(np.float32)

    def drawn(metric, X):
        index = TumorIndex(metric=metric).fit(X)
        return Neighborhood(index, X[:1]).map(0, index.search(X[:1], 3, alpha=None), "type")

    longer = (X * np.linspace(1, 9, len(X))[:, None]).astype(np.float32)
    places = [[(m["x"], m["y"]) for m in drawn("cosine", X)["marks"]] for X in (X, longer)]
    np.testing.assert_allclose(*places, atol=0.2)  # rounded to 0.1
    scaled = X * np.float32([1, 3])
    shares = [int(drawn(metric, scaled)["shares"][0].split()[0]) for metric in ("euclidean", "whitened")]
    assert shares[0] > 85 and shares[1] < 60


def test_map_follows_the_aspects_of_the_answer(cohort, tmp_path):
    """Of aspects that are two columns of numbers the map is these columns, whatever the embeddings are."""
    rng = np.random.default_rng(3)
    X, columns = rng.normal(size=(60, 4)).astype(np.float32), rng.normal(size=(60, 2)) * [1, 2]
    table = {"tumor_id": [f"t{i}" for i in range(60)], "age": columns[:, 0], "dose": columns[:, 1]}
    index, aspects = TumorIndex().fit(X, metadata=table), {"age": 1.0, "dose": 0.5}
    asked = pd.DataFrame({"age": [table["age"][7]], "dose": [table["dose"][7]]})
    neighbors = index.search(X[[20]], 5, query_metadata=asked, aspects=aspects)
    drawn = Neighborhood(index, X[[20]], query_table=asked, aspects=aspects).map(0, neighbors, "type")
    assert neighbors["tumor_id"][0] == "t7" and sum(map(float, (s[:-2] for s in drawn["shares"]))) == 100
    places = np.array([[mark["x"], mark["y"]] for mark in drawn["marks"]])
    np.testing.assert_allclose(places[0], [drawn["query"]["x"], drawn["query"]["y"]])
    plain = Neighborhood(index, X[[20]]).map(0, neighbors, "type")
    first, query = plain["marks"][0], plain["query"]
    assert (first["x"], first["y"]) != (query["x"], query["y"])

    cohort = Cohort([Tumor(t.case, t.bbox, tumor_id=t.tumor_id, mask_value=1) for t in cohort])
    for tumor, age, dose in zip(cohort, *columns[:5].T, strict=True):
        tumor.metadata |= {"age": age, "dose": dose}
    held = TumorIndex().fit(X[1:5], metadata=cohort[1:].table)
    answer = held.search(X[:1], 3, query_metadata=cohort[:1].table, aspects=aspects, alpha=None)
    sheet = {"query": cohort[0], "neighbors": answer, "index": held, "query_X": X[:1]}
    pages = [_page(save_report(tmp_path / "a.html", **sheet, aspects=a)) for a in (aspects, None)]
    expected = Neighborhood(held, X[:1], query_table=cohort[:1].table, aspects=aspects).map(0, answer, "type")
    circles = [[(a["cx"], a["cy"]) for a in page.all("circle")] for page in pages]
    assert circles[0] == [(str(m["x"]), str(m["y"])) for m in expected["marks"]] != circles[1]


def test_map_places_the_query_among_its_like():
    """A query that equals a tumor of the archive lies on it, and that tumor is ringed as the first."""
    X = np.random.default_rng(1).normal(size=(30, 5)).astype(np.float32)
    index = TumorIndex().fit(X, metadata={"tumor_id": [f"t{i}" for i in range(30)]})
    drawn = Neighborhood(index, X[[7]]).map(0, index.search(X[[7]], 2), "type")
    first = drawn["marks"][0]
    assert first["rank"] == 1
    assert (first["x"], first["y"]) == (drawn["query"]["x"], drawn["query"]["y"])
    assert 0 <= first["x"] <= drawn["width"] and 0 <= first["y"] <= drawn["height"]


def test_sources_and_history_are_shown_where_known(cohort, tmp_path):
    """How a label is known, when a scan was made and what was done before stand in its column."""
    known = {"type_source": "histology", "scan_date": "2021-05-04", "prior_surgery": "yes", "secret": "no"}
    answer = _answer(cohort)[:1].assign(**known, closer_than_type=0.96)
    text = _page(save_report(tmp_path / "a.html", query=cohort[0], neighbors=answer)).text
    assert "by histology" in text and "2021-05-04" in text and "prior surgery" in text and "96 %" in text
    assert "secret" not in text


def test_more_than_five_neighbors_get_tables_of_their_own(tmp_path):
    """The query stands in each table, its voxels once."""
    tumors = phantoms.cohort(8)
    path = save_report(tmp_path / "a.html", query=tumors[0], neighbors=_answer(tumors), archive=tumors)
    text = path.read_text()
    assert text.count('class="comparison"') == 4 and text.count('class="voxels"') == 8
    assert text.count('data-of="t0-0"') == 6  # its three planes; measurements are folded tables


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
    assert "No close match: 2 % of the tumors searched" in page.text
    assert "agrees" not in page.text.lower()
    bars = [a["aria-label"] for a in page.all("span") if "random pairs" in a.get("aria-label", "")]
    assert bars == ["type: nearer than 10 % of random pairs", "size: nearer than 90 % of random pairs"] * 4
    assert (
        "not used" not in page.text
        and "no vote (no close match)" in page.text
        and "volume_mm3: median" in page.text
    )
    assert f"note: <b> {len(answer)} (n = {len(answer)})" in page.text and "no recommendation" in page.text
    plain = _page(save_report(tmp_path / "b.html", query=cohort[0], neighbors=_answer(cohort)))
    assert "nearest case" not in plain.text and "no recommendation" not in plain.text


def test_aspects_that_the_distance_does_not_use_are_marked(cohort):
    """Those of weight 0 or without one, and the size beside the plain distance, which has none."""
    shares = {f"closer_than_{name}": 0.5 for name in ("type", "place", "size", "look")}
    answer = _answer(cohort)[:1].assign(**shares)
    for aspects, unused in (
        ({"size": 1}, ["type", "place", "look"]),
        ({"type": 1, "place": 1, "size": 0, "look": 0.25}, ["size"]),
        ({}, ["size"]),
    ):
        page = _Page(render_report(query=cohort[0], neighbors=answer, aspects=aspects))
        bars = [a["aria-label"] for a in page.all("span") if "random pairs" in a.get("aria-label", "")]
        assert [bar.partition(" (not used)")[0] for bar in bars if "(not used)" in bar] == unused
        assert len(bars) == 4 and page.text.count("not used") == len(unused)


def test_labels_and_what_the_network_infers_are_named_apart(cohort, tmp_path):
    """What is inferred stands beside the label; where they differ the sheet points at it."""
    answer = _answer(cohort)[:2].assign(label_type=["meningioma", "glioma"])
    rows = [(0, 0, "meningioma", 0.9), (0, 1, "meningioma", 0.8), (0, 2, "metastasis", 0.7)]
    inferred = pd.DataFrame(rows, columns=["query", "rank", "label", "probability"]).assign(task="type")
    page = _page(save_report(tmp_path / "a.html", query=cohort[0], neighbors=answer, inferred=inferred))
    assert "Network: meningioma, 90 %" in page.text and "Network: meningioma, 80 %" in page.text
    assert page.text.count("⚠ The network infers metastasis, 70 %") == 1


def test_codes_that_only_the_network_gives_are_not_shown(cohort, tmp_path):
    """Bands of place and truth values have neither unit nor meaning; a task that people label stays."""
    answer = _answer(cohort)[:1].assign(label_grade="2")
    inferred = {"region": "sellar", "lateral": "left 2", "high": "-2", "ring": "False", "grade": "3"}
    table = pd.DataFrame(inferred.items(), columns=["task", "label"]).assign(
        query=0, rank=1, probability=0.97
    )
    page = _page(save_report(tmp_path / "a.html", query=cohort[0], neighbors=answer, inferred=table))
    rows = re.findall(r"Network: (.+?)|The network infers (.+?), 97 %", page.text)
    assert "Network: sellar, 97 %" in page.text and "The network infers 3, 97 %" in page.text
    assert len(rows) == 2 and not {"High", "Lateral", "Ring"} & set(page.text.split())


def test_treatment_and_outcome_are_shown_unasked(cohort, tmp_path):
    """Columns that look like them stand under each neighbor and are counted, with what is missing."""
    answer = _answer(cohort).assign(
        dose_gy=[18.0, 20.0, np.nan, 24.0],
        local_control_12m=["yes", None, "no", "yes"],
        shoe_size=41,
        rim_fraction=0.6,
    )
    page = _page(save_report(tmp_path / "a.html", query=cohort[0], neighbors=answer))
    assert "dose_gy: median 20, range 18 to 24 (n = 3, 1 not known)" in page.text
    assert "local_control_12m: yes 2, no 1 (n = 3, 1 not known)" in page.text
    assert "no recommendation" in page.text and "shoe" not in page.text
    assert "rim_fraction" not in page.text and page.text.count("Rim fraction") == 1  # measured


def test_a_proposed_query_has_a_banner_and_no_vote(cohort, tmp_path):
    """The banner comes before all else, proposals are shown with confidence, nothing is counted."""
    answer = pd.concat([_answer(cohort), _answer(cohort).assign(query=1)], ignore_index=True)
    answer = answer.assign(p_value=0.02, no_close_match=True)
    query = [
        Tumor(t.case, t.bbox, tumor_id=t.tumor_id, mask_value=t.mask_value, metadata={"confidence": sure})
        for t, sure in zip(cohort[:2], (0.91, 0.62), strict=True)
    ]
    tables = {"votes": votes(answer, cohort.table), "proposed": True}
    page = _page(save_report(tmp_path / "a.html", query=query, neighbors=answer, archive=cohort, **tables))
    text = " ".join(page.text.split())
    assert text.index("Nobody drew these tumors") < text.index("Axial")
    assert "sella" in text and "choroid plexus" in text and "--accept 1,3" in text
    assert "confidence 91 %" in text and "confidence 62 %" in text
    assert "base rate" not in text and "nearest case" not in text and "not a diagnosis" not in text
    proposals = [a for a in page.all("td") if "proposal" in a.get("class", "")]
    assert len(proposals) == 6  # three planes of two proposals, outlined in another color


def test_what_does_not_count_is_marked(cohort, tmp_path):
    """A kept self-match has a badge and neither verdict nor counts; what was left out is named."""
    answer = _answer(cohort).assign(same=["scan", "patient", None, None], distance=[0.0, 0.1, 1.0, 2.0])
    left = pd.DataFrame({"query": [0], "tumor_id": ["s9/1"], "reason": ["same scan"]})
    options = {"neighbors": answer, "left_out": left, "notes": ["Look: <b>"]}
    page = _page(save_report(tmp_path / "a.html", query=cohort[0], **options))
    text = " ".join(page.text.split())
    assert "⚠ Same scan: not counted" in text and "⚠ Same patient: not counted" in text
    assert "s9/1 (same scan)" in text and "Look: <b>" in text
    counted = answer["label_type"][2:].value_counts()
    assert f"Type: {', '.join(f'{name} {n}' for name, n in counted.items())}" in text


def test_the_page_is_given_as_text_too(cohort):
    """`render_report` returns what `save_report` writes."""
    page = render_report(query=cohort[0], neighbors=_answer(cohort))
    assert page.startswith("<!DOCTYPE html>") and page.rstrip().endswith("</html>")
