"""Draw the picture of the README: the first screen of an answer sheet of real tumors.

    python -m benchmarks.pictures DEMO

``DEMO`` is the folder of `tumorsim demo`, which is run where it has no index yet. The demo's query is asked
again, among the real scans only. The picture is ``docs/images/answer_sheet.png``; it needs the package
playwright and a Chromium (``TUMORSIM_CHROMIUM`` names its file).
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from tumorsim import TumorEmbedder, TumorIndex, find_similar, load_dataset
from tumorsim.demo import QUERY, WEIGHTS, run_demo

__all__ = ["draw_sheet"]

TARGET = Path(__file__).parents[1] / "docs" / "images" / "answer_sheet.png"
WINDOW = {"width": 1366, "height": 768}  # of a small laptop, whose first screen holds the answer


def draw_sheet(page_file, path=TARGET, *, window=None):
    """Write the first screen of an answer sheet as PNG.

    Parameters
    ----------
    page_file : str or Path
        HTML file of an answer sheet.
    path : str or Path
        The picture.
    window : dict of int, optional
        ``width`` and ``height`` in pixels; default 1366 × 768.
    """
    from playwright.sync_api import sync_playwright

    executable = os.environ.get("TUMORSIM_CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_page(viewport=window or WINDOW, color_scheme="light")
        page.goto(Path(page_file).resolve().as_uri())
        page.screenshot(path=path)
        browser.close()


def main(arguments=None):
    """Run the demo where it has not run, and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("demo", type=Path, metavar="DEMO")
    folder = parser.parse_args(arguments).demo
    if not (folder / "index").exists():
        run_demo(folder)
    embedder, index = TumorEmbedder.from_pretrained(WEIGHTS), TumorIndex.load(folder / "index")
    query = [tumor for tumor in load_dataset("examples") if tumor.patient_id == QUERY]
    among = {"where": {"dataset": "cheng"}, "exclude": "same_patient"}
    answer = find_similar(embedder, index, query, n_neighbors=5, **among)
    with tempfile.TemporaryDirectory() as made:
        names = {"archive_name": "real example scans", "model_name": WEIGHTS}
        draw_sheet(answer.save_html(Path(made) / "answer.html", **names))
    print(f"Wrote {TARGET}. Look at it.")


if __name__ == "__main__":
    main()
