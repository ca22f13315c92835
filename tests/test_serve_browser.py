"""The local page in a browser, end to end: drop, draw, ask, filter, save, add, find again."""

import json
import re
import time
import zipfile

import numpy as np
import pytest
from test_report_browser import CHROMIUM, browser  # noqa: F401, a fixture
from test_serve import TOKEN, Server, world  # noqa: F401, world is a fixture
from test_serve_dicomweb import orthanc  # noqa: F401, a fixture

from tumorsim import TumorIndex
from tumorsim.io import load_image, save_nifti

pytest.importorskip("starlette", reason="the page needs the extra serve")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium: apt-get install chromium, or TUMORSIM_CHROMIUM"
    ),
]


@pytest.fixture(scope="module")
def server(world):  # noqa: F811
    """Return a running server on the phantoms' index."""
    server = Server(world, world / "model.safetensors", world / "index")
    yield server
    assert server.stop() == ("", "")


@pytest.fixture(params=["light"])
def page(browser, server, request):  # noqa: F811
    """Return the page opened by its link; at the end it has complained of nothing and stayed on loopback."""
    context = browser.new_context(
        viewport={"width": 1366, "height": 768}, color_scheme=request.param, accept_downloads=True
    )
    page = context.new_page()
    page.complaints, urls = [], []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: urls.append(request.url))
    page.goto(server.link)
    page.wait_for_selector("#aspects input")
    page.set_default_timeout(30_000)
    yield page
    assert page.complaints == []
    assert [url for url in urls if not url.startswith((server.url, "data:"))] == []
    assert TOKEN not in page.url
    context.close()


def _drop(page, paths):
    """Drop files onto the page, as a person does."""
    page.evaluate("""() => {
        const area = document.createElement('input');
        Object.assign(area, { type: 'file', multiple: true, id: 'hand' });
        document.body.append(area);
    }""")
    page.set_input_files("#hand", [str(path) for path in paths])
    page.evaluate("""() => {
        const transfer = new DataTransfer(), hand = document.getElementById('hand');
        for (const file of hand.files) transfer.items.add(file);
        hand.remove();
        document.getElementById('drop').dispatchEvent(
            new DragEvent('drop', { dataTransfer: transfer, bubbles: true, cancelable: true }));
    }""")


def _until(page, condition):
    """Wait until a condition holds; the page's own policy forbids the browser's own waiting."""
    end = time.monotonic() + 40
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(50)


def _answered(page):
    """Wait for an answer; return the ids that its sheet shows."""
    page.wait_for_selector("#answer:not([hidden])")
    _until(page, "document.getElementById('status').className === ''")
    return page.frame_locator("#sheet").locator("body").inner_text()


SHOWN = """['axial', 'coronal', 'sagittal'].every(plane => {
    const c = document.getElementById(plane).getContext('2d');
    return c.getImageData(0, 0, 420, 420).data.filter((v, i) => i % 4 === 0 && v > 5).length > 5000;
})"""  # that many pixels are not black


def test_dicom_box_answer_add_and_find_again(page, server, world, tmp_path):  # noqa: F811
    """A folder of DICOM, a box by two clicks, an answer, a slider, a filter, files, and the archive."""
    slices = [p for p in (world / "dicom").iterdir() if p.is_file()]
    _drop(page, slices)
    page.wait_for_selector("#viewer:not([hidden])")
    _until(page, "document.getElementById('status').className === ''")
    _until(page, "[...document.querySelectorAll('canvas')].every(canvas => canvas.dataset.slice)")
    assert page.evaluate(SHOWN)
    page.click("#draw")
    frame = page.locator("#axial").bounding_box()
    for share in (0.4, 0.6):
        page.mouse.click(frame["x"] + share * frame["width"], frame["y"] + share * frame["height"])
    numbers = [int(field.input_value()) for field in page.locator("#box input").all()]
    assert all(numbers[2 * i] < numbers[2 * i + 1] for i in range(3))
    # pull the right-hand side of the box outwards
    x, y = frame["x"] + 0.603 * frame["width"], frame["y"] + 0.5 * frame["height"]
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 30, y, steps=4)
    page.mouse.up()
    pulled = [int(field.input_value()) for field in page.locator("#box input").all()]
    assert sum(a != b for a, b in zip(numbers, pulled, strict=True)) == 1
    page.click("#ask")
    assert "query/1" in _answered(page)
    with page.expect_response(lambda r: r.url.endswith("/queries") and r.request.method == "POST") as changed:
        page.locator("#aspects input").first.focus()
        page.keyboard.press("End")
    assert max(json.loads(changed.value.request.post_data)["aspects"].values()) == 2
    _until(page, "document.getElementById('status').className === ''")
    page.click("summary:has-text('Filters')")
    with page.expect_response(lambda r: r.url.endswith("/queries") and r.request.method == "POST") as changed:
        page.locator("#filters select").first.select_option(index=1)
    found = changed.value.json()["queries"][0]["neighbors"]
    where = json.loads(changed.value.request.post_data)["where"]
    ((column, (value,)),) = where.items()
    assert found and {neighbor[column] for neighbor in found} == {value}
    _until(page, "document.getElementById('status').className === ''")
    for kind, start in (("HTML", b"<!"), ("CSV", b"query"), ("JSON", b"{")):
        with page.expect_download() as download:
            page.click(f"#save a:text-is('{kind}')")
        download.value.save_as(tmp_path / kind)
        assert (tmp_path / kind).read_bytes().lstrip().lower().startswith(start.lower())
    page.click("summary:has-text('Add to the archive')")
    page.fill("#add-patient", "browser")
    page.fill("#add-case", "dropped")
    page.fill("#labels input", "glioma")
    page.click("#add-tumor")
    _until(page, "document.getElementById('status').textContent.includes('Added dropped/1')")
    page.click("#tab-archive")
    page.wait_for_selector("#table tr")
    page.select_option("#by-column", "patient_id")
    page.fill("#by-value", "browser")
    page.click("#by-go")
    _until(page, "document.getElementById('found').textContent === '1 tumor'")
    page.click("#table button")
    page.wait_for_selector("#tumor:not([hidden])")
    assert "dropped" in page.inner_text("#tumor") and page.locator("#tumor tbody tr").count() == 5
    page.click("#tumor button:has-text('Answer sheet')")
    assert "dropped/1" in _answered(page)
    page.click("#tab-archive")
    _until(page, "!document.getElementById('undo').disabled")
    page.click("#undo")
    _until(page, "document.getElementById('status').textContent.includes('Undone: added dropped/1')")
    assert page.inner_text("#found") == "6 tumors" and page.is_hidden("#tumor")
    page.fill("#by-value", "nobody")
    page.click("#by-go")
    _until(page, "document.getElementById('status').className === 'bad'")
    assert "selects nothing" in page.inner_text("#status")
    assert server.call("GET", "/archive").json()["n_tumors"] == 6


def test_nifti_with_mask_and_proposals(page, world):  # noqa: F811
    """An image and its mask, dropped together, need no box; a zip of DICOM is as good as its folder."""
    _drop(page, [world / "new.nii.gz", world / "new-mask.nii.gz"])
    page.wait_for_selector("#lesions:not([hidden]) input:checked")
    page.click("#ask")
    assert "new/1" in _answered(page)
    _until(page, "document.getElementById('answer').getBoundingClientRect().top < 100")  # it is looked at
    page.route("**/proposals", lambda route: route.continue_(post_data='{"threshold": 0.0}'))
    page.click("#propose")
    _until(page, "document.body.innerText.includes('Proposed: accept')")
    assert page.locator("#lesions input:checked").count() == 0 and page.is_disabled("#ask")
    assert re.search(r"1: \d+\.\d\d ml, confidence 0\.\d\d", page.inner_text("#lesions"))
    page.check("#lesions input >> nth=0")
    page.click("#ask")
    _until(page, "document.getElementById('status').className === ''")
    page.frame_locator("#sheet").locator("summary:has-text('settings')").click()
    assert "proposed by the model, accepted by a person" in _answered(page)


@pytest.fixture
def several(world, tmp_path):  # noqa: F811
    """Return an image and its mask of three lesions."""
    image, affine = load_image(world / "new.nii.gz")
    mask = np.zeros(image.shape, np.uint8)
    for i, edge in enumerate((7, 6, 5)):  # the largest lesion is the first
        mask[12 : 12 + edge, 10 + 10 * i : 10 + 10 * i + edge, 12 : 12 + edge] = 1
    save_nifti(tmp_path / "multi.nii.gz", image + 5, affine)
    save_nifti(tmp_path / "multi-mask.nii.gz", mask, affine)
    return tmp_path / "multi.nii.gz", tmp_path / "multi-mask.nii.gz"


def _posted(page, path, action):
    """Return what an action posts, once it is answered."""
    with page.expect_response(lambda r: r.url.endswith(path) and r.request.method == "POST") as found:
        action()
    return json.loads(found.value.request.post_data)


def test_lesions_a_box_adding_and_removing(page, server, several):
    """What was marked last is asked for; of several lesions the chosen one is added, by its own number."""
    _drop(page, several)
    page.wait_for_selector("#lesions:not([hidden]) input:checked")
    page.uncheck("#lesions input >> nth=0")
    asked = _posted(page, "/queries", lambda: page.click("#ask"))
    assert asked["lesions"] == [2, 3] and "box" not in asked
    _answered(page)
    steps = page.evaluate("history.length")
    page.click("#draw")
    for key in ("Enter", "Shift+ArrowRight", "Shift+ArrowDown", "Enter"):
        page.keyboard.press(key)
    assert page.locator("#lesions input:checked").count() == 0
    asked = _posted(page, "/queries", lambda: page.click("#ask"))
    assert len(asked["box"]) == 6 and "lesions" not in asked
    _answered(page)
    page.check("#lesions input >> nth=2")
    assert page.is_hidden("#box")
    asked = _posted(page, "/queries", lambda: page.click("#ask"))
    assert asked["lesions"] == [3] and "box" not in asked
    _answered(page)
    page.check("#lesions input >> nth=1")
    page.click("#ask")
    assert "multi/2" in _answered(page)
    assert page.evaluate("history.length") == steps  # Back does not bring an older sheet
    page.click("summary:has-text('Add to the archive')")
    page.fill("#add-patient", "several")
    page.select_option("#which", "multi/3")
    page.click("#add-tumor")
    _until(page, "document.getElementById('status').textContent.includes('Added multi/3')")
    page.select_option("#which", "multi/2")
    page.click("#add-tumor")
    _until(page, "document.getElementById('status').textContent.includes('Added multi/2')")
    boxes = [server.call("GET", f"/tumors/multi/{i}").json()["tumor"]["y0"] for i in (2, 3)]
    assert boxes == [20, 30]
    page.click("#tab-archive")
    page.click("#table button:text-is('multi/3')")
    page.click("#tumor button:has-text('Remove')")
    _until(page, "document.getElementById('status').textContent.startsWith('Removed multi/3')")
    assert page.inner_text("#found") == "7 tumors" and page.is_enabled("#undo")
    for _ in range(3):
        assert server.call("POST", "/undo").status_code == 200


def test_nothing_of_the_former_scan_stays(page, world, several):  # noqa: F811
    """Answer, patient and labels go with their scan, and a late answer is dropped; others stand alone."""
    _drop(page, [world / "new.nii.gz", world / "new-mask.nii.gz"])
    page.wait_for_selector("#lesions:not([hidden]) input:checked")
    page.fill("#patient", "PAT-A")
    assert _posted(page, "/queries", lambda: page.click("#ask"))["patient_id"] == "PAT-A"
    _answered(page)
    page.click("summary:has-text('Add to the archive')")
    page.fill("#labels input", "glioma")
    held = []
    page.route("**/queries", lambda route: held.append(route))
    page.click("#ask")
    _drop(page, several)
    page.wait_for_selector("#lesions label:has-text('3:')")
    held[0].fulfill(response=held[0].fetch())
    page.wait_for_timeout(300)
    assert page.is_hidden("#answer") and page.is_visible("#viewer")
    assert page.input_value("#patient") == "" and page.input_value("#labels input") == ""
    page.unroute("**/queries")
    assert "patient_id" not in _posted(page, "/queries", lambda: page.click("#ask"))
    _answered(page)
    assert page.inner_text("#whose") == "Answer" and page.is_visible("#viewer")
    page.click("#tab-archive")
    page.click("#table button:text-is('s0/1')")
    page.click("#tumor button:has-text('Answer sheet')")
    _until(page, "document.getElementById('whose').textContent === 'Answer for s0/1 of the archive'")
    assert page.is_hidden("#viewer") and page.is_hidden("#add")
    page.click("#back")
    assert page.is_hidden("#answer") and page.is_visible("#viewer")


def test_bad_file_is_told(page, world):  # noqa: F811
    """A file that is no scan leaves the sentence of the command line, and the page as it was."""
    _drop(page, [world / "bad.nii.gz"])
    _until(page, "document.getElementById('status').className === 'bad'")
    assert "neither NIfTI nor NRRD" in page.inner_text("#status") and page.is_hidden("#viewer")


def test_mask_that_comes_alone(page, world):  # noqa: F811
    """After its scan it is that scan's mask, whatever its name; before any scan the page says what it is."""
    page.fill("#patient", "p")
    _drop(page, [world / "new-mask.nii.gz"])
    _until(page, "document.getElementById('status').className === 'bad'")
    assert "looks like a mask" in page.inner_text("#status") and page.is_hidden("#viewer")
    _drop(page, [world / "new.nii.gz"])
    page.wait_for_selector("#viewer:not([hidden])")
    assert page.is_hidden("#lesions")
    _drop(page, [world / "new-mask.nii.gz"])
    page.wait_for_selector("#lesions:not([hidden]) input:checked")
    assert page.input_value("#patient") == "p" and "as the mask of" in page.inner_text("#status")
    assert _posted(page, "/queries", lambda: page.click("#ask"))["lesions"] == [1]
    assert "new/1" in _answered(page)


def test_booleans_and_numbers_to_filter_by(browser, world, tmp_path, request):  # noqa: F811
    """A column of booleans filters on both pages; decimals are shown; an end of the server is told."""
    index = TumorIndex.load(world / "index")
    table = index.metadata_[["tumor_id"]]
    index.update(metadata=table.assign(ring=[True, False] * 3, sphericity=np.linspace(0.71, 0.94, 6)))
    index.save(tmp_path / "index")
    server = Server(tmp_path, world / "model.safetensors", tmp_path / "index")
    request.addfinalizer(lambda: server.process.poll() is None and server.stop())
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    page.goto(server.link)
    page.wait_for_selector("#aspects input")
    places = page.locator("#filters [data-column=sphericity]").all()
    assert [field.get_attribute("placeholder") for field in places] == ["0.71", "0.94"]
    _drop(page, [world / "new.nii.gz", world / "new-mask.nii.gz"])
    page.wait_for_selector("#lesions:not([hidden]) input:checked")
    page.click("summary:has-text('Filters')")
    page.select_option("[data-column=ring]", "false")
    assert _posted(page, "/queries", lambda: page.click("#ask"))["where"] == {"ring": [False]}
    page.frame_locator("#sheet").locator("body:has-text('s1/1')").wait_for()  # notes came before it
    assert "s0/1" not in _answered(page)
    page.click("#tab-archive")
    page.select_option("#by-column", "ring")
    page.fill("#by-value", "true")
    page.click("#by-go")
    _until(page, "document.getElementById('found').textContent === '3 tumors'")
    server.stop()
    page.click("#by-go")
    _until(page, "document.getElementById('status').className === 'bad'")
    assert "not running any more. Start it again with 'tumorsim serve INDEX'" in page.inner_text("#status")
    page.close()


def test_map_and_history(page, world, tmp_path):  # noqa: F811
    """A point of the map opens its tumor; after a reload and another scan a query is shown again."""
    _drop(page, [world / "new.nii.gz", world / "new-mask.nii.gz"])
    page.wait_for_selector("#lesions:not([hidden]) input:checked")
    page.click("#ask")
    assert "new/1" in _answered(page)
    _drop(
        page, [p for p in (world / "dicom").iterdir() if p.is_file()]
    )  # the first scan is held with its answer
    _until(page, "document.getElementById('status').className === ''")
    page.reload()
    page.wait_for_selector("#aspects input")
    page.click("#tab-archive")
    page.wait_for_selector("#map circle")
    assert page.locator("#map circle").count() == 6 and "meningioma (3)" in page.inner_text("#legend")
    dot = page.locator("#map circle").nth(2)
    name = dot.get_attribute("data-id")
    dot.click()
    page.wait_for_selector("#tumor:not([hidden])")
    assert page.inner_text("#tumor h2 >> nth=0") == name
    page.focus("#map svg")
    page.keyboard.press("ArrowRight")
    first = page.locator("#map circle.chosen").get_attribute("data-id")
    assert first in page.inner_text("#status")
    page.keyboard.press("Enter")
    _until(page, f"document.querySelector('#tumor h2').textContent === {json.dumps(first)}")
    page.click("#tab-history")
    page.wait_for_selector("#queries tbody tr")
    row = page.locator("#queries tbody tr", has_text="new/1").first
    assert re.search(r"type: \w+, \d of 5", row.inner_text())
    row.locator("button").click()
    assert "new/1" in _answered(page) and page.input_value("#add-case") == "new"
    _until(page, "document.getElementById('answer').getBoundingClientRect().top < 100")


def test_a_late_response_overwrites_nothing(page, server):
    """The table of an older request that is answered last is dropped; so is an older tumor's page."""
    held, order = [], []

    def hold_first(route):
        """Hold the first request of a kind until the second was answered."""
        order.append(route.request.url)
        if not held:
            held.append(route)
            return
        route.fulfill(response=route.fetch())
        held[0].fulfill(response=held[0].fetch())

    page.route("**/tumors?where=*", hold_first)
    page.click("#tab-archive")
    while not held:
        page.wait_for_timeout(20)
    page.select_option("#by-column", "patient_id")
    page.fill("#by-value", "patient-s0")
    page.click("#by-go")
    _until(page, "document.getElementById('status').className === ''")
    page.wait_for_selector("#map circle")
    page.wait_for_timeout(300)  # the late one has come by now
    assert len(order) == 2 and page.inner_text("#found") == "1 tumor"
    assert page.locator("#table tbody tr").count() == 1
    held.clear()
    page.unroute("**/tumors?where=*")
    page.route("**/tumors/s*", hold_first)
    page.click("#by-clear")
    _until(page, "document.getElementById('found').textContent === '6 tumors'")
    page.locator("#table button").nth(0).click()
    second = page.locator("#table button").nth(1)
    second.click()
    page.wait_for_selector("#tumor:not([hidden])")
    page.wait_for_timeout(300)
    assert page.inner_text("#tumor h2 >> nth=0") == second.inner_text()


@pytest.mark.server
def test_fetch_a_study(browser, world, orthanc, tmp_path):  # noqa: F811
    """With a DICOMweb server a study's UID is as good as its files; only the page's own server is asked."""
    address, study = orthanc
    model, index = world / "model.safetensors", world / "index"
    server = Server(world, model, index, options={"dicomweb": f"{address}/dicom-web"})
    page, urls = browser.new_page(viewport={"width": 1366, "height": 768}), []
    page.on("request", lambda request: urls.append(request.url))
    page.goto(server.link)
    page.wait_for_selector("#pull:not([hidden])")
    page.fill("#study", f" {study} ")
    page.keyboard.press("Enter")
    page.wait_for_selector("#lesions:not([hidden]) input:checked", timeout=60_000)
    _until(page, "[...document.querySelectorAll('canvas')].every(canvas => canvas.dataset.slice)")
    page.screenshot(path=tmp_path / "page.png")
    page.click("#ask")
    assert "query/1" in _answered(page)
    assert [url for url in urls if not url.startswith((server.url, "data:"))] == []
    page.close()
    assert server.stop() == ("", "")


def test_keyboard_only(page, world, tmp_path):  # noqa: F811
    """Without a mouse: a scan, a box by crosshair and Enter, and the answer."""
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        for path in (p for p in (world / "dicom").iterdir() if p.is_file()):
            archive.write(path, path.name)
    page.set_input_files("#files", str(tmp_path / "export.zip"))  # the system's own dialog
    _until(page, "document.activeElement.id === 'axial'")
    page.focus("#draw")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "axial"
    page.keyboard.press("Enter")
    for key in ("Shift+ArrowRight", "Shift+ArrowDown", "PageUp"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    page.wait_for_selector("#box:not([hidden])")
    page.focus("#n")
    page.keyboard.press("Enter")
    assert "query/1" in _answered(page)
    unnamed = page.evaluate("""() => [...document.querySelectorAll('button, input, select, canvas, iframe')]
        .filter(e => e.offsetParent && !(e.getAttribute('aria-label') || e.title || e.textContent.trim()
            || (e.labels && e.labels.length))).map(e => e.outerHTML)""")
    assert unnamed == []


@pytest.mark.parametrize("page", ["light", "dark"], indirect=True)
def test_looks(page, world, tmp_path, request):  # noqa: F811
    """At 1366 × 768 nothing is wider than the window, the planes are seen whole, text stands out."""
    _drop(page, [world / "new.nii.gz", world / "new-mask.nii.gz"])
    page.wait_for_selector("#lesions:not([hidden]) input:checked")
    _until(page, "document.getElementById('status').className === ''")
    _until(page, "[...document.querySelectorAll('canvas')].every(canvas => canvas.dataset.slice)")
    assert page.evaluate(SHOWN)
    assert page.evaluate("document.documentElement.scrollWidth") <= 1366
    bottom = page.locator("#axial").bounding_box()
    assert bottom["y"] + bottom["height"] < 768
    colors = page.evaluate("""() => ['color', 'backgroundColor'].map(
        name => getComputedStyle(document.body)[name].match(/\\d+/g).slice(0, 3).map(Number))""")
    assert abs(sum(colors[0]) - sum(colors[1])) > 450
    page.screenshot(path=tmp_path / "page.png")
    page.set_viewport_size({"width": 390, "height": 844})  # a phone
    edges = [page.locator("figcaption output").nth(i).bounding_box() for i in range(3)]
    assert all(edge["x"] + edge["width"] <= 390 and edge["width"] >= 60 for edge in edges)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.screenshot(path=tmp_path / "phone.png", full_page=True)
    page.set_viewport_size({"width": 1366, "height": 768})
    page.click("#ask")
    _answered(page)
    page.screenshot(path=tmp_path / "answer.png")
    for tab, filled in (("archive", "#map circle"), ("history", "#queries tr")):
        page.click(f"#tab-{tab}")
        page.wait_for_selector(filled)
        assert page.evaluate("document.documentElement.scrollWidth") <= 1366
        page.screenshot(path=tmp_path / f"{tab}.png")
