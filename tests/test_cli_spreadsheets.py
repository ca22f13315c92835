"""The whole way from a spreadsheet to an answer sheet, by commands."""

import os

import pandas as pd
import pytest
from test_cli import run

from tumorsim import load_cohort, make_cohort

THEIRS = {"patient_id": "Patient", "case_id": "Untersuchung", "image": "Bild", "mask": "Maske"}
THEIRS |= {"label_type": "Histologie"}


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Return a folder of simulated scans and a table of them with German names and Windows paths."""
    folder = tmp_path_factory.mktemp("spreadsheets")
    cohort = make_cohort(3, random_state=3, spacing=4.0, output_dir=folder / "scans")
    first = {tumor.case.case_id: tumor for tumor in cohort}
    rows = []
    for number, tumor in enumerate(first.values(), start=1):
        files = [
            os.path.relpath(path, folder).replace("/", "\\") for path in (tumor.case.image, tumor.case.mask)
        ]
        kind = tumor.labels["type"] if number > 1 else None
        rows.append([f"Müller {number}", number, *files, kind, 12.5 + number])
    return folder, pd.DataFrame(rows, columns=[*THEIRS.values(), "Dosis"])


@pytest.mark.parametrize("name", ["deutsch.csv", "scans.xlsx"])
def test_a_spreadsheet_walks_to_an_answer_sheet(scans, name):
    """A CSV of German Excel and an .xlsx become archive, embeddings, index and answer sheet."""
    folder, table = scans
    out = folder / name.partition(".")[0]
    if name.endswith(".xlsx"):
        pytest.importorskip("openpyxl", reason="Excel needs openpyxl, an extra")
        table.to_excel(folder / name, index=False)
    else:
        text = table.to_csv(sep=";", decimal=",", index=False, na_rep="#NV", lineterminator="\r\n")
        (folder / name).write_bytes(text.encode("utf-16"))
    names = ",".join(f"{ours}={theirs}" for ours, theirs in THEIRS.items())
    run("manifest", folder / name, "-o", out / "archive.csv", "--columns", names)
    cohort = load_cohort(out / "archive.csv")
    assert sorted(set(cohort.patient_ids)) == ["Müller 1", "Müller 2", "Müller 3"]
    assert set(cohort.table["Dosis"]) == {13.5, 14.5, 15.5} and len(set(cohort.table["case_id"])) == 3
    assert cohort.table.loc[cohort.table["patient_id"] == "Müller 1", "label_type"].isna().all()
    run("embed", out / "archive.csv", "-o", out / "archive.npz", "--device cpu")
    run("index build", out / "archive.npz", "-o", out / "index")
    case = cohort[0].case
    shown = run(
        "query",
        out / "index",
        case.image,
        "--mask",
        case.mask,
        "--device cpu --keep-same",
        "--report",
        out / "a.html",
    )
    assert "Müller 1" in shown.output and "Müller 1" in (out / "a.html").read_text(encoding="utf-8")
