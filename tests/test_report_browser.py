"""The answer sheet in a browser: it scrolls, shows what the voxels are, and loads nothing."""

import base64
import io
import os
import shutil

import numpy as np
import phantoms
import pytest
from PIL import Image

from tumorsim import Case, Cohort, Tumor, TumorIndex
from tumorsim.report import save_report

CHROMIUM = os.environ.get("TUMORSIM_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium: apt-get install chromium, or TUMORSIM_CHROMIUM"
    ),
]
ASPECTS = ("type", "place", "size", "look")
PLANES = ("axial", "coronal", "sagittal")


@pytest.fixture(scope="module")
def sheet(tmp_path_factory):
    """Return the sheet of one phantom and five others, the query with a bright spot 10 mm up."""
    cohort = phantoms.cohort(6)
    image, affine = cohort[0].case.image
    image = image.copy()
    x, y, z = (cohort[0].bbox.sum(axis=0) - 1) // 2
    image[x, y, z + 5] = 1000  # voxels of 2 mm; the tumor ends at 3
    case = Case((image, affine), cohort[0].case.mask, case_id="q", patient_id="q")
    query = Tumor(case, cohort[0].bbox, tumor_id="q/1", labels=cohort[0].labels, mask_value=1)
    archive = cohort[1:]
    X = np.random.default_rng(0).normal(size=(5, 4))
    index = TumorIndex().fit(X, metadata=archive.table)
    answer = index.search(X[:1] + 0.1, 5).assign(p_value=0.4, no_close_match=False)
    for number, name in enumerate(ASPECTS):  # the archive is too small for heads of its own
        answer[f"distance_{name}"] = 0.2 * (number + answer["rank"])
        answer[f"closer_than_{name}"] = 1 - 0.1 * (number + answer["rank"])
    path = tmp_path_factory.mktemp("sheet") / "answer.html"
    return save_report(path, query=query, neighbors=answer, archive=archive, index=index, query_X=X[:1] + 0.1)


@pytest.fixture(scope="module")
def browser():
    """Return a headless Chromium for the module."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, sheet):
    """Return the sheet opened; at the end there was no error and no request."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(sheet.as_uri())
    page.wait_for_selector(".live canvas")
    page.wait_for_selector("#locked", state="visible")  # functions would need eval, which is forbidden
    page.check("#plane-all")
    page.get_by_text("Window and size").click()
    yield page
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [sheet.as_uri()]
    context.close()


def _slider(page, of="t0-0", plane="axial"):
    return page.locator(f'.plane[data-of="{of}"][data-plane="{plane}"] input')


def _pixels(page, of="t0-0", plane="axial"):
    """Return a canvas as gray values (400, 400); outlines are switched off by the caller if need be."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    selector = f'.plane[data-of="{of}"][data-plane="{plane}"] canvas'
    data = page.evaluate("selector => document.querySelector(selector).toDataURL()", selector)
    return _gray(data)


def _gray(data):
    """Return a data URL's picture as gray values."""
    image = Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGB")
    return np.asarray(image, dtype=float).mean(axis=-1)


def test_every_tumor_is_live(page):
    """Each of six tumors has three canvases with a slider that a screen reader can name."""
    assert page.locator(".live canvas").count() == 18
    slider = _slider(page)
    assert "axial plane of the query tumor" in slider.get_attribute("aria-label")
    assert slider.get_attribute("aria-valuetext") == "through the tumor's center"


def test_arrow_keys_find_the_spot_above_the_center(page):
    """Five slices of 2 mm up, by keyboard, the spot appears in the axial plane's middle, and nowhere else."""
    page.uncheck("#outlines")
    _slider(page).focus()
    brightest = []
    for _ in range(6):
        page.keyboard.press("ArrowUp")
        brightest.append(_pixels(page)[190:210, 190:210].max())
    assert brightest[4] == 255 > max(brightest[3], brightest[5]) + 50
    page.keyboard.press("ArrowDown")
    _pixels(page)
    assert _slider(page).get_attribute("aria-valuetext") == "10 millimetres superior of the tumor's center"
    assert page.locator('.plane[data-of="t0-0"][data-plane="axial"] .readout').text_content() == "S 10 mm"


def test_tumors_scroll_together_unless_told_not_to(page):
    """A step of one tumor moves the others as far; without the lock it does not."""
    start = [int(_slider(page, f"t0-{i}").input_value()) for i in range(6)]
    _slider(page).focus()
    page.keyboard.press("ArrowUp")
    assert [int(_slider(page, f"t0-{i}").input_value()) for i in range(6)] == [n + 1 for n in start]
    page.uncheck("#locked")
    _slider(page).focus()
    page.keyboard.press("ArrowDown")
    moved = [int(_slider(page, f"t0-{i}").input_value()) for i in range(6)]
    assert moved == [start[0], *(n + 1 for n in start[1:])]
    page.click("#reset")
    assert [int(_slider(page, f"t0-{i}").input_value()) for i in range(6)] == start


def test_wheel_scrolls_slices_only_in_a_chosen_picture(page):
    """The page keeps the wheel until a picture is clicked; Escape gives it back."""
    from playwright.sync_api import expect

    canvas = page.locator('.plane[data-of="t0-1"][data-plane="coronal"] canvas')
    slider = _slider(page, "t0-1", "coronal")
    start = int(slider.input_value())
    canvas.hover()
    page.mouse.wheel(0, -100)
    page.wait_for_timeout(100)
    assert int(slider.input_value()) == start
    canvas.click()
    page.mouse.wheel(0, -100)
    expect(slider).to_have_value(str(start + 1))
    page.keyboard.press("Escape")
    page.mouse.wheel(0, -100)
    page.wait_for_timeout(100)
    assert int(slider.input_value()) == start + 1


def test_pictures_are_those_without_a_script(page):
    """A canvas shows the still picture that it covers: same place, same window, in every plane."""
    page.uncheck("#outlines")
    for plane in PLANES:
        cell = page.locator(f'.plane[data-of="t0-2"][data-plane="{plane}"]')
        still = Image.fromarray(_gray(cell.locator("image").get_attribute("href")).astype(np.uint8))
        still = np.asarray(still.resize((400, 400), Image.Resampling.BILINEAR), dtype=float)
        drawn = _pixels(page, "t0-2", plane)
        assert np.abs(drawn - still).mean() < 6  # edges of voxels are smoothed differently
        assert np.corrcoef(drawn.ravel(), still.ravel())[0, 1] > 0.98


def test_window_and_outline_change_what_is_drawn(page):
    """Brightness raises all gray values, and the outline adds its color."""
    page.uncheck("#outlines")
    plain = _pixels(page)
    page.locator("#brightness").focus()
    page.keyboard.press("End")
    assert _pixels(page).mean() > plain.mean() + 10
    page.click("#reset")
    page.check("#outlines")
    np.testing.assert_array_less(0, np.count_nonzero(_pixels(page) != plain))


def test_dragging_changes_the_window(page):
    """Dragging in a picture moves both sliders, and so all pictures."""
    box = page.locator('.plane[data-of="t0-0"][data-plane="axial"] canvas').bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 90, box["y"] + 40, steps=4)
    page.mouse.up()
    assert float(page.locator("#contrast").input_value()) > 5
    assert float(page.locator("#brightness").input_value()) > 5


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1400), ("dark", 1400), ("light", 390)], ids=["light", "dark", "narrow"]
)
def test_looks(browser, sheet, tmp_path, scheme, width):
    """Nothing is wider than the window but the table in its frame; text stands out from its background."""
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    page.goto(sheet.as_uri())
    page.wait_for_selector(".live canvas")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    colors = page.evaluate("""() => ['color', 'backgroundColor'].map(
        name => getComputedStyle(document.body)[name].match(/\\d+/g).slice(0, 3).map(Number))""")
    assert abs(np.mean(colors[0]) - np.mean(colors[1])) > 180
    assert (np.mean(colors[1]) > 128) == (scheme == "light")
    page.screenshot(path=tmp_path / f"{scheme}-{width}.png")
    context.close()


def test_prints_on_a4(page, tmp_path):
    """Page 1 of A4 holds verdict, axial row, aspects and labels of five neighbors."""
    pypdf = pytest.importorskip("pypdf", reason="pip install pypdf")
    path = tmp_path / "answer.pdf"
    page.pdf(path=path, prefer_css_page_size=True)
    pages = pypdf.PdfReader(path).pages
    width, height = (float(v) for v in pages[0].mediabox[2:])
    assert width == pytest.approx(842, abs=1) and height == pytest.approx(595, abs=1) and len(pages) <= 3
    first = pages[0].extract_text()
    assert "of the neighbors" in first and "Research use only" in first
    assert first.count("Place") >= 5 and first.count("Look") >= 5
    assert first.count("≠ differs") + first.count("✓ same") >= 5
    assert len(pages[0].images) >= 6


def test_works_without_scripts(browser, sheet):
    """Where scripts are forbidden the still pictures stay and no control is shown that does nothing."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(sheet.as_uri())
    assert page.locator(".plane image").count() == 18
    assert page.locator("#outlines").is_visible() and not page.locator("#brightness").is_visible()
    coronal = page.locator('[data-of="t0-0"][data-plane="coronal"]')
    assert not coronal.is_visible()
    page.check("#plane-coronal")
    assert coronal.is_visible() and not page.locator('[data-of="t0-0"][data-plane="axial"]').is_visible()
    page.uncheck("#outlines")
    assert not page.locator(".outline").first.is_visible()
    context.close()


def test_a_script_from_a_manifest_does_not_run(browser, tmp_path):
    """Markup in ids and labels neither runs nor leaves its cell."""
    evil = "</script><script>document.title='gone'</script><img src=x onerror=document.title='gone'>"
    tumor = phantoms.scan("s", [("meningioma", (20, 22, 17), (3, 4, 5))])[0]
    query = Tumor(tumor.case, tumor.bbox, tumor_id=evil, labels={"type": evil}, mask_value=1)
    other = Cohort(phantoms.scan("o", [("meningioma", (20, 22, 17), (3, 4, 5))]))
    answer = other.table.assign(query=0, rank=1, distance=0.5)
    path = save_report(tmp_path / "a.html", query=query, neighbors=answer, archive=other)
    page = browser.new_page()
    page.goto(path.as_uri())
    page.wait_for_selector(".live canvas")
    assert page.title().startswith("Similar tumors") and page.locator("img").count() == 0
    page.close()


def test_the_answer_fits_a_laptop(browser, sheet):
    """Verdict, axial row and the aspects of five neighbors are seen at 1366 × 768 without scrolling."""
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    page.goto(sheet.as_uri())
    page.wait_for_selector(".live canvas")
    seen = [page.locator(".verdict"), *page.locator(".pictures.axial .frame").all()]
    seen += page.locator(".aspects .share").all()
    assert len(seen) == 1 + 6 + 5 * len(ASPECTS)
    for box in (part.bounding_box() for part in seen):
        assert box["x"] >= 0 and box["x"] + box["width"] <= 1366
        assert box["y"] >= 0 and box["y"] + box["height"] <= 768
    assert page.locator(".pictures.axial .frame").first.bounding_box()["width"] > 180
    assert (
        not page.locator(".pictures.coronal").is_visible()
        and not page.locator(".more .chart").first.is_visible()
    )
    page.close()


def test_a_picture_is_enlarged_by_click_and_by_key(page):
    """A button, reached by Tab, enlarges its picture; Esc brings it and the focus back."""
    button = page.get_by_role("button", name="Enlarge axial plane of neighbor 1")
    small = page.locator('[data-of="t0-1"][data-plane="axial"] .frame').bounding_box()["width"]
    button.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Enlarged picture")
    assert dialog.locator(".frame").bounding_box()["width"] > 2 * small
    assert "neighbor 1" in dialog.text_content()
    before = dialog.locator("input").input_value()
    page.keyboard.press("ArrowUp")
    assert int(dialog.locator("input").input_value()) == int(before) + 1
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("Enlarge axial")
    assert page.locator('[data-of="t0-1"][data-plane="axial"] .frame').bounding_box()["width"] == small
    button.click()
    assert dialog.is_visible()
    page.get_by_role("button", name="Close").click()
    assert not dialog.is_visible()


def test_everything_is_reached_and_named(page):
    """Tab goes through all controls in the order of the page, and each has a name."""
    named = """() => { const e = document.activeElement; return [e.id, e.tagName,
        e.getAttribute('aria-label') || e.closest('label')?.textContent.trim() || e.textContent.trim()]; }"""
    page.locator("h1").click()
    stops = []
    for _ in range(30):
        page.keyboard.press("Tab")
        stops.append(page.evaluate(named))
    assert all(name for _, _, name in stops)
    ids = [stop[0] for stop in stops]
    assert ids.index("plane-all") < ids.index("outlines") < ids.index("locked") < ids.index("brightness")
    assert next(name for _, _, name in stops if name.startswith("Slice, ")).endswith("the query tumor")
    roles = page.locator("main").aria_snapshot()
    assert 'group "Verdict"' in roles and 'columnheader "Query' in roles and 'rowheader "Aspects"' in roles
    assert "nearer than" in roles and "random pairs" in roles


def test_a_proposed_query_looks_it(browser, tmp_path):
    """Its banner comes first, its outline is dashed in another color, and no verdict is there."""
    cohort = phantoms.cohort(3)
    answer = cohort[1:].table.assign(query=0, rank=[1, 2], distance=[0.5, 0.6])
    options = {"query": cohort[0], "neighbors": answer, "archive": cohort, "proposed": True}
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    page.goto(save_report(tmp_path / "a.html", **options).as_uri())
    page.wait_for_selector(".live canvas")
    banner = page.get_by_role("note", name="Proposed lesions")
    assert banner.bounding_box()["y"] < 100 and page.locator(".verdict").count() == 0
    look = "e => [getComputedStyle(e).stroke, getComputedStyle(e).strokeDasharray]"
    drawn = [
        page.locator(f"{where} .outline").first.evaluate(look)
        for where in ('[data-of="t0-0"]', '[data-of="t0-1"]', ".proposals")
    ]
    assert drawn[0] == drawn[2] != drawn[1] and drawn[0][1] != "none" == drawn[1][1]
    page.close()
