"""The overview of many answers and the review of proposed masks, in a browser at a laptop's size."""

import pandas as pd
import pytest
from test_cli import run
from test_report_browser import CHROMIUM, browser  # noqa: F401, a fixture

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # commands print warnings
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium"),
]


@pytest.fixture(scope="module")
def pages(made_folder, tmp_path_factory):
    """Return the overview and the review of five scans and one that is gone."""
    path = tmp_path_factory.mktemp("pages")
    table = pd.read_csv(made_folder / "scans.csv")
    table[["image", "mask"]] = table[["image", "mask"]].map(
        lambda cell: str(made_folder / cell.split("/")[-1])
    )
    table.loc[5, "image"] = "gone.nii.gz"
    table.to_csv(path / "week.csv", index=False)
    table.drop(columns="mask").to_csv(path / "scans.csv", index=False)
    model = ("--model", made_folder / "model.safetensors", "--device cpu --threshold 0")
    run("query", made_folder / "index", path / "week.csv", *model, "-n 3 --report", path / "week")
    run("segment", path / "scans.csv", *model, "-o", path / "masks")
    return {"overview": path / "week" / "index.html", "review": path / "masks" / "review.html"}


@pytest.fixture(params=["overview", "review"])
def page(browser, pages, request):  # noqa: F811
    """Return one of the pages opened; at the end there was no error and no request."""
    context = browser.new_context(viewport={"width": 1366, "height": 768})
    page = context.new_page()
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("request", lambda asked: requests.append(asked.url))
    page.goto(pages[request.param].as_uri())
    yield page
    assert complaints == []
    assert not [url for url in requests if not url.startswith(("data:", "file:"))]
    context.close()


def test_pages_fit_a_laptop(page):
    """Nothing is wider than the window, every picture is shown, and outlines can be hidden."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    frames = page.locator(".frame")
    assert frames.count() in (5, 20)
    assert all(box["width"] >= 120 and box["x"] + box["width"] <= 1366 for box in map(_box, frames.all()))
    assert frames.first.bounding_box()["y"] < 400  # a picture is seen without scrolling
    outlines = page.locator("path.outline")
    assert outlines.count() and outlines.first.is_visible()
    page.uncheck("#outlines")
    assert not outlines.first.is_visible()
    assert page.get_by_text("gone.nii.gz").count() == 1


def test_a_row_leads_to_its_sheet_and_back(browser, pages):  # noqa: F811
    """A click on a tumor of the overview opens the answer sheet at that tumor."""
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    page.goto(pages["overview"].as_uri())
    page.get_by_role("link", name="s1/1").click()
    page.wait_for_selector(".live canvas")
    assert (
        page.url.endswith("sheets/s1.html#query1") and page.locator(".ids b").first.text_content() == "s1/1"
    )
    page.go_back()
    assert page.get_by_role("link").count() == 5
    page.close()


def _box(frame):
    """Return where an element is shown."""
    frame.scroll_into_view_if_needed()
    return frame.bounding_box()
