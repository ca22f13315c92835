"""The local page's server, a real one on loopback: who may call it, what it takes, what it answers."""

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace

import archives
import dicoms
import numpy as np
import phantoms
import pytest
import requests
from sklearn.decomposition import PCA
from test_cli import run
from typer.main import get_command

from tumorsim import TumorEmbedder, TumorIndex
from tumorsim.answers import describe_vote
from tumorsim.cli import app
from tumorsim.io import load_image, save_nifti
from tumorsim.rendering import COLORS

pytest.importorskip("starlette", reason="the page needs the extra serve")
from starlette.exceptions import HTTPException

from tumorsim.serve import Limits, _desk, make_app
from tumorsim.serve._uploads import Form

pytestmark = pytest.mark.slow
TOKEN = "0123456789-abcdef"
START = """
import sys
from tumorsim.retrieval import load_embedder
from tumorsim.serve import Limits, serve
if __name__ == "__main__":
    options = dict(token={token!r}, browser=False, limits=Limits(**{limits}))
    embedder = load_embedder({model!r})
    serve({index!r}, embedder, echo=lambda text: print(text, flush=True), **options | {options})
"""


class Server:
    """A server in a process of its own, and a client with its token."""

    def __init__(self, folder, model, index, *, options=None, **limits):
        script = folder / f"start-{len(list(folder.iterdir()))}.py"
        facts = {"index": str(index), "model": str(model), "token": TOKEN}
        script.write_text(START.format(limits=limits, options=options or {}, **facts))
        temp = Path(tempfile.mkdtemp(dir=folder))
        self.log = temp.with_suffix(".log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, script],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=os.environ | {"TMPDIR": str(temp)},
        )
        self.link = re.search(r"http://\S+", self.process.stdout.readline())[0]
        (self.private,) = temp.glob("tumorsim-*")
        self.url = self.link.partition("/?")[0]
        self.headers = {"Authorization": f"Bearer {TOKEN}"}

    def call(self, method, path, **options):
        """Return a response to a request with the token; headers given replace it."""
        return requests.request(method, self.url + path, timeout=120, **{"headers": self.headers} | options)

    def upload(self, *files, mask=None, **fields):
        """Send files as a browser does."""
        parts = [("files", (Path(f).name, Path(f).read_bytes())) for f in files]
        parts += [("mask", (Path(mask).name, Path(mask).read_bytes()))] if mask else []
        return self.call("POST", "/scans", files=parts, data=fields)

    def stop(self):
        """End the server as the system would; return what it printed after the link."""
        self.process.send_signal(signal.SIGTERM)
        rest = self.process.communicate(timeout=90)[0]
        self.log.seek(0)
        with self.log:
            text = self.log.read()
        if "resource_tracker" in text:  # Python's own complaint of semaphores that joblib leaves
            text = "".join(line for line in text.splitlines(True) if "resource_tracker" not in line)
        return rest.partition("treatment.\n")[2], text


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return a folder with an archive of phantoms, its model and its index, and a new patient."""
    folder = tmp_path_factory.mktemp("serve")
    cohort = phantoms.cohort(7)
    embedder = TumorEmbedder(**phantoms.TINY).initialize(cohort[:6])
    embedder.save(folder / "model.safetensors")
    archive = archives.write_cohort(cohort[:6], folder)
    X = embedder.transform(archive)
    TumorIndex().fit(X, metadata=archive.table, space=embedder.space_).save(folder / "index")
    image, affine = cohort[6].case.image
    save_nifti(folder / "new.nii.gz", image, affine)
    save_nifti(folder / "new-mask.nii.gz", *cohort[6].case.mask)
    paths = dicoms.write_series(
        folder / "dicom", image.round().astype(np.uint16), affine, identity=dicoms.IDENTITY
    )
    contours = dicoms.contours_of(cohort[6].case.load_mask() > 0, affine)
    dicoms.write_rtstruct(folder / "dicom" / "plan", {"GTV": contours}, paths)
    (folder / "bad.nii.gz").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def server(world):
    """Return a running server; at the end it has logged nothing, and its private folder is gone."""
    server = Server(
        world, world / "model.safetensors", world / "index", upload_bytes=2**22, upload_seconds=12
    )
    yield server
    assert server.stop() == ("", "") and not server.private.exists()


@pytest.fixture
def scan(server, world):
    """Return a scan with a mask that the server holds."""
    response = server.upload(world / "new.nii.gz", mask=world / "new-mask.nii.gz", patient_id="new")
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": f"Bearer {TOKEN}", "Host": "evil.example"}, 421),
        ({"Authorization": f"Bearer {TOKEN}", "Origin": "https://evil.example"}, 403),
        ({"Authorization": f"Bearer {TOKEN}", "Origin": "null"}, 403),
        ({"Authorization": "Bearer wrong"}, 401),
        ({}, 401),
    ],
    ids=["host", "origin", "null-origin", "token", "no-token"],
)
def test_strangers_are_refused(server, headers, status):
    """A wrong host name, origin or token is refused, whatever is asked for."""
    for method, path in (("GET", "/archive"), ("POST", "/scans"), ("DELETE", "/tumors/a"), ("GET", "/")):
        assert server.call(method, path, headers=headers).status_code == status


def test_link_gives_a_strict_cookie(server):
    """The link's cookie is HttpOnly and strict; with it the page may read, and change with its own origin."""
    session = requests.Session()
    first = session.get(server.link)
    assert first.status_code == 200 and "default-src 'none'" in first.headers["Content-Security-Policy"]
    assert all(part in first.headers["Set-Cookie"] for part in ("HttpOnly", "SameSite=Strict", "Path=/"))
    assert session.get(f"{server.url}/archive").json()["n_tumors"] == 6
    assert session.post(f"{server.url}/undo").status_code == 403  # no origin: no browser of ours
    assert session.post(f"{server.url}/undo", headers={"Origin": server.url}).status_code == 422
    assert session.get(f"{server.url}/archive?token={TOKEN}", cookies={}).status_code == 200
    assert requests.get(f"{server.url}/archive?token={TOKEN}").status_code == 401  # only the link's page


def test_paths_and_methods(server):
    """What is not a route is not there: no file of the machine, no other method."""
    for path in ("/../pyproject.toml", "/serve.js/../../answer.css", "/%2e%2e/etc/passwd", "/queries/x.py"):
        assert server.call("GET", path).status_code == 404
    assert server.call("PUT", "/scans").status_code == 405
    assert server.call("DELETE", "/archive").status_code == 405
    assert server.call("POST", "/queries", data="{").status_code == 400
    assert server.call("POST", "/queries", data="[1]").status_code == 400
    assert server.call("POST", "/queries", data=b" " * 200_000).status_code == 413


def test_malformed_requests(server, scan):
    """Whatever a field holds, the answer is a sentence that blames the request, never an internal error."""
    answer = server.call("POST", "/queries", json={"scan": scan["id"]}).json()["id"]
    asked, proposals = {"scan": scan["id"]}, f"/scans/{scan['id']}/proposals"
    bodies = [("/queries", {"scan": wrong}) for wrong in (["x"], {}, None, 5)]
    bodies += [("/queries", asked | {"lesions": wrong}) for wrong in (5, "a", [0], [99], [None], {"a": 1})]
    bodies += [("/queries", asked | {"box": wrong}) for wrong in (5, "a", [1], [0, 0, 0, "a", 5, 5], {})]
    bodies += [
        ("/queries", asked | {"where": wrong}) for wrong in (5, [1], {"type": {}}, {"volume_mm3": [[">="]]})
    ]
    bodies += [
        ("/queries", asked | {name: {"a": []}}) for name in ("n_neighbors", "exclude", "aspects", "show")
    ]
    bodies += [("/queries", asked | {"aspects": {"type": wrong}}) for wrong in (1e308, 1e-300, -1)]
    bodies += [("/queries", asked | {"patient_id": 5}), ("/queries", {"tumor": [1]})]
    bodies += [(proposals, {"threshold": "x"}), (proposals, {"threshold": [1]}), (proposals, {"other": 1})]
    bodies += [("/tumors", {"query": wrong}) for wrong in ([], None)]
    known = {"query": answer, "patient_id": "q"}
    more = (
        {"lesion": 9},
        {"lesion": "a"},
        {"labels": 5},
        {"labels": {"type": [1]}},
        {"tumor_id": 5},
        {"case_id": []},
    )
    bodies += [("/tumors", known | one) for one in more]
    bodies += [("/scans", {"study": 5}), ("/scans", {"study": {"a": 1}}), ("/scans", {})]
    for path, body in bodies:
        response = server.call("POST", path, json=body)
        assert response.status_code in (400, 404, 422) and response.json()["error"], (
            path,
            body,
            response.text,
        )
    for path in (
        "/tumors?limit=x",
        "/tumors?where=x",
        "/tumors?where=5",
        "/tumors?offset=1.5",
    ):
        response = server.call("GET", path)
        assert response.status_code == 422 and response.json()["error"], path
    assert server.call("GET", "/archive").json()["n_tumors"] == 6


def test_api_is_described(server):
    """The description names every route and method that there is, and no other."""
    described = server.call("GET", "/openapi.json").json()
    assert described["openapi"].startswith("3.")
    listed = {
        (path, method.upper())
        for path, entry in described["paths"].items()
        for method in entry
        if method != "parameters"
    }
    desk = SimpleNamespace(limits=Limits())
    routes = make_app(desk, TOKEN, []).app.routes
    there = {(r.path.replace(":path", ""), method) for r in routes for method in r.methods - {"HEAD"}}
    assert listed == {
        pair for pair in there if pair[0] not in ("/", "/serve.js", "/serve.css", "/openapi.json")
    }


def test_answer_is_that_of_the_command_line(server, world, scan):
    """A mask's lesion has the neighbors, CSV and sheet that 'tumorsim query' gives."""
    asked = {
        "scan": scan["id"],
        "n_neighbors": 3,
        "exclude": "same_patient",
        "where": {"volume_mm3": [[">", 1]]},
    }
    answer = server.call("POST", "/queries", json=asked).json()
    printed = run(
        "query",
        world / "index",
        world / "new.nii.gz",
        "--mask",
        world / "new-mask.nii.gz",
        "-n 3 --json",
        "--patient-id new --exclude same_patient --where",
        "volume_mm3>1",
        "--model",
        world / "model.safetensors",
        "--device cpu",
    )
    expected = json.loads(printed.output)["queries"][0]["neighbors"]
    found = answer["queries"][0]["neighbors"]
    assert [n["tumor_id"] for n in found] == [n["tumor_id"] for n in expected]
    np.testing.assert_allclose([n["distance"] for n in found], [n["distance"] for n in expected], rtol=1e-3)
    page = server.call("GET", f"/queries/{answer['id']}.html")
    assert (
        "sandbox allow-scripts" in page.headers["Content-Security-Policy"]
        and found[0]["tumor_id"] in page.text
    )
    assert server.call("GET", f"/queries/{answer['id']}.csv").text.count("\n") == 4
    assert server.call("GET", f"/queries/{answer['id']}.json").json()["queries"] == answer["queries"]


def test_box_is_in_the_voxels_of_the_file(server, world, scan):
    """The box of the lesion, as the scan's description has it, is the same tumor."""
    box = scan["lesions"][0]["box"]
    asked = {"scan": scan["id"], "box": box, "n_neighbors": 6}
    by_box = server.call("POST", "/queries", json=asked).json()["queries"][0]
    assert [by_box[name] for name in ("x0", "y0", "z0", "x1", "y1", "z1")] == box
    assert server.call("POST", "/queries", json=asked | {"boxes": 1}).status_code == 422
    wrong = server.call("POST", "/queries", json=asked | {"box": [0, 0, 0, 900, 9, 9]})
    assert wrong.status_code == 422 and "must lie inside the image" in wrong.json()["error"]


def test_slices_are_those_of_the_file(server, world, scan):
    """A PNG has the voxels of its plane, the patient's right on the left, windowed as asked."""
    from PIL import Image

    image = load_image(world / "new.nii.gz")[0]
    query = f"/scans/{scan['id']}/slice?plane=axial&number=15&low=0&high=255"
    shown = np.asarray(Image.open(io.BytesIO(server.call("GET", query).content)))
    expected = np.clip(image[::-1, ::-1, 15].T, 0, 255)  # stored RAS+
    np.testing.assert_allclose(shown, expected, atol=1)
    outlines = server.call("GET", f"/scans/{scan['id']}/outlines?plane=sagittal&number=18").json()
    assert all(path.startswith("M") for path in outlines.values())
    assert server.call("GET", f"/scans/{scan['id']}/slice?plane=oblique&number=1").status_code == 422
    for wrong in ("plane=axial", "plane=axial&number=1&x=1", "plane=axial&number=1&low=nan"):
        for kind in ("slice", "outlines"):
            response = server.call("GET", f"/scans/{scan['id']}/{kind}?{wrong}")
            assert response.status_code == 400 and "'low' and 'high'" in response.json()["error"]
    assert server.call("GET", f"/scans/{scan['id']}/slice?plane=axial&number=99999").status_code == 422


def test_own_scan_is_left_out(server, world, tmp_path):
    """A box larger than the lesion in a copy of a scan of the archive does not find that lesion."""
    archive = TumorIndex.load(world / "index").metadata_.set_index("tumor_id").loc["s1/1"]
    image, affine = load_image(archive["image"])
    save_nifti(tmp_path / "other.nii", image, affine)
    shutil.copy(archive["image"], tmp_path / "another.nii.gz")
    box = [int(archive[name]) for name in ("x0", "y0", "z0")]
    box += [int(archive[name]) + 1 for name in ("x1", "y1", "z1")]
    for name in ("other.nii", "another.nii.gz"):
        scan = server.upload(tmp_path / name).json()
        answer = server.call("POST", "/queries", json={"scan": scan["id"], "box": box}).json()
        assert "Left out, same scan as the query: s1/1." in answer["notes"]
        assert "s1/1" not in [n["tumor_id"] for n in answer["queries"][0]["neighbors"]]


@pytest.mark.parametrize("packed", [False, True], ids=["files", "zip"])
def test_dicom_with_its_contours(server, world, tmp_path, packed):
    """DICOM comes as files or as a zip, shows no name, and gives a SEG of the lesion back."""
    paths = sorted(p for p in (world / "dicom").iterdir() if p.is_file())
    if packed:
        with zipfile.ZipFile(tmp_path / "export.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in paths:
                archive.write(path, f"export/series/{path.name}")
        paths = [tmp_path / "export.zip"]
    scan = server.upload(*paths).json()
    assert len(scan["lesions"]) == 1 and not [s for s in dicoms.SECRETS if s in json.dumps(scan)]
    answer = server.call("POST", "/queries", json={"scan": scan["id"]}).json()
    added = {"query": answer["id"], "patient_id": "p", "case_id": "kept"}  # as NIfTI
    assert server.call("POST", "/tumors", json=added).status_code == 200
    box = scan["lesions"][0]["box"]
    asked = {"scan": scan["id"], "box": [*box[:3], *(stop + 1 for stop in box[3:])]}
    assert "same scan as the query: kept/1" in server.call("POST", "/queries", json=asked).text
    assert server.call("POST", "/undo").status_code == 200
    seg = server.call("GET", f"/queries/{answer['id']}.seg")
    assert seg.status_code == 200 and seg.content[128:132] == b"DICM"
    assert server.call("DELETE", f"/scans/{scan['id']}").status_code == 200
    assert server.call("GET", f"/queries/{answer['id']}.seg").status_code == 404


def test_bad_file_gets_the_sentence_of_the_command_line(server, world, monkeypatch):
    """The words on a file that is no image are those of 'tumorsim query'."""
    response = server.upload(world / "bad.nii.gz")
    monkeypatch.chdir(world)
    printed = run("query index bad.nii.gz --model model.safetensors", code=2).output
    assert response.status_code == 422 and f"Error: {response.json()['error']}" == printed.strip()


def _zip(path, names, content=b"x", mode=None):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if mode:
                info.create_system, info.external_attr = 3, mode << 16
            archive.writestr(info, content)
    return path


def test_a_mask_of_many_values_alone_is_told(server, world, tmp_path):
    """A label map that comes without its scan is taken for one, and a note says so; a scan has none."""
    image, affine = load_image(world / "new.nii.gz")
    block = np.add.outer(np.arange(image.shape[0]) // 6, 8 * (np.arange(image.shape[1]) // 6))
    labels = np.repeat(block[:, :, None], image.shape[2], axis=2).astype(np.uint8)
    save_nifti(tmp_path / "atlas.nii.gz", labels, affine)
    found = server.upload(tmp_path / "atlas.nii.gz").json()
    assert not found["mask_like"]
    assert re.search(
        r"'atlas\.nii\.gz' was taken for a scan, but has \d+ values in even", " ".join(found["notes"])
    )
    assert server.upload(world / "new.nii.gz").json()["notes"] == []


def test_hostile_uploads(server, world, tmp_path):
    """Bombs, paths out of the folder, links, and too many bytes are refused in words, and nothing is left."""
    attacks = {
        "below its own folder": [
            _zip(tmp_path / "dots.zip", ["../../evil"]),
            _zip(tmp_path / "root.zip", ["/etc/evil"]),
            _zip(tmp_path / "link.zip", ["link"], b"/etc/passwd", 0o120777),
        ],
        "4000 files": [_zip(tmp_path / "many.zip", [f"f{i}" for i in range(4001)])],
    }
    bomb = tmp_path / "bomb.zip"
    with (
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("zeros", "w", force_zip64=True) as file,
    ):
        for _ in range(2100):
            file.write(b"\0" * 2**20)
    attacks["MB. Got"] = [bomb]
    for words, files in attacks.items():
        for path in files:
            response = server.upload(path)
            assert response.status_code == 422 and words in response.json()["error"], path.name
    big = tmp_path / "big.nii.gz"
    big.write_bytes(b"\0" * (2**22 + 1))
    assert server.upload(big).status_code == 413
    assert server.call("POST", "/scans", data=b"raw").status_code == 415
    assert server.upload(world / "new.nii.gz", world / "new-mask.nii.gz").status_code == 422
    assert not Path("/etc/evil").exists() and server.call("GET", "/archive").status_code == 200


def test_files_of_a_form_go_to_the_disk(tmp_path):
    """Two thousand files take no memory and no open file each; a form's fields are bounded."""
    form = Form("multipart/form-data; boundary=b", tmp_path, 2001)
    start = '--b\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n'
    known = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc") else None
    for number in range(2000):
        head = start.format("files", f'; filename="ü{number}.dcm"')
        form.write(head.encode() + b"x" * (number % 3) + b"\r\n")
    assert known is None or len(os.listdir("/proc/self/fd")) <= known + 1
    form.write(start.format("series", "").encode() + b"t1\r\n--b--\r\n")
    assert form.whole and form.fields == {"series": "t1"} and len(form.files) == 2000
    assert [(part, name) for part, name, _ in form.files[:2]] == [("files", "ü0.dcm"), ("files", "ü1.dcm")]
    assert [path.stat().st_size for _, _, path in form.files[:4]] == [0, 1, 2, 0]
    form = Form("multipart/form-data; boundary=b", tmp_path, 2001)
    with pytest.raises(HTTPException) as refused:
        form.write(start.format("series", "").encode() + b"t" * 20_000)
    assert refused.value.status_code == 413
    form = Form("multipart/form-data; boundary=b", tmp_path / "none", 0)
    with pytest.raises(HTTPException, match="0 files"):
        form.write(start.format("files", '; filename="a"').encode())


def test_damaged_forms(server):
    """A form that ends early, is no form, or whose sender goes away leaves a sentence or nothing."""
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    whole = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.nii"\r\n\r\nx\r\n--b--\r\n'
    for body in (whole[:-9], whole[:30], b"nonsense", b""):
        response = server.call("POST", "/scans", data=body, headers=server.headers | kind)
        assert response.status_code == 400 and "not whole" in response.json()["error"], body
    response = server.call("POST", "/scans", data=whole, headers=server.headers | kind)
    assert response.status_code == 422 and "neither NIfTI nor NRRD" in response.json()["error"]
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        head = f"POST /scans HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {TOKEN}\r\n"
        head += f"Content-Type: {kind['Content-Type']}\r\nContent-Length: 900\r\n\r\n"
        client.sendall(head.encode() + whole[:-9])
        time.sleep(0.2)
    assert server.call("GET", "/archive").status_code == 200  # and nothing in the log at the end


def test_slow_upload_ends(server):
    """A body that does not come is not waited for."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        head = f"POST /scans HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {TOKEN}\r\n"
        client.sendall(
            f"{head}Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 900\r\n\r\n--b".encode()
        )
        start = time.monotonic()
        assert b" 408 " in client.recv(100)
        assert 11 < time.monotonic() - start < 20


def test_fifty_uploads_at_once(server, world):
    """Some are taken and right, the others are told to come later; the server's memory stays bounded."""

    def one(number):
        kind = "new" if number % 2 else "bad"
        mask = world / "new-mask.nii.gz" if number % 2 else None
        return number % 2, server.upload(world / f"{kind}.nii.gz", mask=mask)

    with ThreadPoolExecutor(50) as pool:
        responses = list(pool.map(one, range(50)))
    statuses = [response.status_code for _, response in responses]
    assert set(statuses) <= {200, 422, 503} and statuses.count(503) > 10 and 200 in statuses
    for good, response in responses:
        if response.status_code == 503:
            assert response.headers["Retry-After"] == "2"
        else:
            assert (response.status_code == 200) == bool(good)
            if good:
                assert response.json()["lesions"][0]["box"] == [
                    int(v) for v in response.json()["lesions"][0]["box"]
                ]
    status = Path(f"/proc/{server.process.pid}/status")
    if status.exists():
        assert int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1]) < 1_500_000  # kB
    assert server.upload(world / "new.nii.gz").status_code == 200


def test_archive_can_be_changed_and_undone(server, world, scan):
    """A query's tumor is added with labels and found again; removing and adding can be undone."""
    answer = server.call("POST", "/queries", json={"scan": scan["id"]}).json()
    added = {"query": answer["id"], "labels": {"type": "glioma"}, "case_id": "added", "patient_id": "q9"}
    response = server.call("POST", "/tumors", json=added)
    assert response.json() == {"tumor_id": "added/1"}
    assert server.call("POST", "/tumors", json=added).status_code == 422  # the id is taken
    files = sorted(f.name[-12:] for f in (world / "index_files").iterdir())
    assert files == ["_mask.nii.gz", "image.nii.gz"]
    found = server.call("GET", "/tumors", params={"where": json.dumps({"patient_id": "q9"})}).json()
    assert (
        found["n"] == 1 and found["tumors"][0]["label_type"] == "glioma" and "image" not in found["tumors"][0]
    )
    again = {"scan": scan["id"], "n_neighbors": 1}
    (found,) = server.call("POST", "/queries", json=again).json()["queries"]
    assert [(own["tumor_id"], own["reason"]) for own in found["left_out"]] == [("added/1", "same scan")]
    assert found["neighbors"][0]["tumor_id"] != "added/1"
    (found,) = server.call("POST", "/queries", json=again | {"keep_same": True}).json()["queries"]
    assert found["neighbors"][0]["tumor_id"] == "added/1" and found["neighbors"][0]["same"] == "scan"
    near = server.call("GET", "/tumors/added/1").json()
    assert near["tumor"]["patient_id"] == "q9" and "q9" not in [n["patient_id"] for n in near["nearest"]]
    looked = server.call("POST", "/queries", json={"tumor": "added/1", "exclude": "same_patient"}).json()
    assert [n["tumor_id"] for n in looked["queries"][0]["neighbors"]] == [
        n["tumor_id"] for n in near["nearest"]
    ]
    assert server.call("DELETE", "/tumors/added/1").status_code == 200
    assert server.call("GET", "/tumors/added/1").status_code == 404
    assert server.call("POST", "/undo").json() == {"undone": "removed added/1"}
    assert server.call("POST", "/undo").json() == {"undone": "added added/1"}
    assert server.call("GET", "/archive").json()["n_tumors"] == 6 and not list(
        (world / "index_files").iterdir()
    )
    assert server.call("POST", "/undo").status_code == 422


def test_lesion_is_added_by_its_own_number(server, world, tmp_path):
    """Of lesions 2 and 3 the second is added as 3, so that the first lesion is no duplicate."""
    image, affine = load_image(world / "new.nii.gz")
    mask = np.zeros(image.shape, np.uint8)
    for i, edge in enumerate((7, 6, 5)):
        mask[12 : 12 + edge, 10 + 10 * i : 10 + 10 * i + edge, 12 : 12 + edge] = 1
    save_nifti(tmp_path / "m.nii.gz", mask, affine)
    scan = server.upload(world / "new.nii.gz", mask=tmp_path / "m.nii.gz", patient_id="q").json()
    added = []
    for lesions, lesion in (([2, 3], 2), ([2, 3], 1), ([1, 1], 1)):
        asked = {"scan": scan["id"], "lesions": lesions}
        query = server.call("POST", "/queries", json=asked).json()["id"]
        body = {"query": query, "lesion": lesion, "case_id": "c", "keep_scan": False}
        added.append(server.call("POST", "/tumors", json=body).json()["tumor_id"])
    assert added == ["c/3", "c/2", "c/1"]
    for _ in added:
        assert server.call("POST", "/undo").status_code == 200


def test_history(server, scan):
    """The server keeps what was asked: when, of which scan, the vote; and the answer until its scan goes."""
    start = datetime.now().astimezone() - timedelta(seconds=2)
    answer = server.call("POST", "/queries", json={"scan": scan["id"], "n_neighbors": 4}).json()
    told = server.call("GET", "/queries").json()["queries"][0]
    assert told == {name: answer[name] for name in told}
    assert told["id"] == answer["id"] and told["scan_number"] == scan["scan_number"] >= 1
    assert told["tumor_ids"] == ["new/1"] and told["kinds"] == ["html", "csv", "json"]
    assert start <= datetime.fromisoformat(told["time"]) <= datetime.now().astimezone()
    expected = [describe_vote(vote) for vote in answer["queries"][0]["votes"]]
    assert told["votes"] == expected and expected[0].startswith("type: ")
    again = server.call("GET", f"/queries/{answer['id']}.json").json()
    assert again == {name: one for name, one in answer.items() if name != "notes"} | {"notes": again["notes"]}
    for kind in ("html", "csv"):
        assert server.call("GET", f"/queries/{answer['id']}.{kind}").status_code == 200
    assert len(list(server.private.glob(f"answer-{answer['id']}.*"))) == 2
    server.call("DELETE", f"/scans/{scan['id']}")
    assert answer["id"] not in [one["id"] for one in server.call("GET", "/queries").json()["queries"]]
    assert not list(server.private.glob(f"answer-{answer['id']}.*"))


def test_map_of_the_archive(server, world):
    """Each tumor is a point, in the color of its type in every figure; near in the archive is near on it."""
    index = TumorIndex.load(world / "index")
    types = index.metadata_.set_index("tumor_id")["label_type"]
    drawn = server.call("GET", "/map").json()["map"]
    assert sorted(i for group in drawn["groups"] for i in group["tumor_ids"]) == sorted(types.index)
    colors = dict(zip(("metastasis", "meningioma", "schwannoma", "glioma"), COLORS, strict=False))
    for group in drawn["groups"]:
        assert set(types[group["tumor_ids"]]) == {group["name"]} and group["color"] == colors[group["name"]]
        assert all(0 <= x <= drawn["width"] and 0 <= y <= drawn["height"] for x, y in group["points"])
    by_side = server.call("GET", "/map", params={"task": "hemisphere"}).json()["map"]
    place = {i: xy for one in drawn["groups"] for i, xy in zip(one["tumor_ids"], one["points"], strict=True)}
    assert place == {
        i: xy for one in by_side["groups"] for i, xy in zip(one["tumor_ids"], one["points"], strict=True)
    }
    points = PCA(2).fit_transform(index.coordinates(metadata=index.metadata_, aspects=index.aspect_weights()))
    for axis in (0, 1):  # up to a sign
        found = [place[i][axis] for i in index.metadata_["tumor_id"]]
        assert abs(np.corrcoef(found, points[:, axis])[0, 1]) > 0.999


def test_map_is_made_again_only_for_another_index_or_label(world, tmp_path, monkeypatch):
    """It takes seconds of a large archive, and does not change while the page is open."""
    shutil.copytree(world / "index", tmp_path / "index")
    made, original = [], _desk.map_archive
    monkeypatch.setattr(_desk, "map_archive", lambda index, task: made.append(task) or original(index, task))
    desk = _desk.Desk(tmp_path / "index", TumorEmbedder.load(world / "model.safetensors"), tmp_path)
    first = desk.map()
    assert desk.map() == first and made == ["type"]
    desk.map("hemisphere")
    desk.remove_tumor(desk.index().metadata_["tumor_id"].iloc[0])
    assert desk.map("hemisphere")["map"]["n_all"] == first["map"]["n_all"] - 1
    assert made == ["type", "hemisphere", "hemisphere"]


def test_page_gets_errors_without_a_status(server, world):
    """Browsers write a failed status to the console, so that the page's own calls get the sentence only."""
    where = {"where": json.dumps({"patient_id": "nobody"})}
    refused = server.call("GET", "/tumors", params=where)
    assert refused.status_code == 422
    shown = server.call("GET", "/tumors", params=where, headers=server.headers | {"X-Tumorsim-Page": "1"})
    assert shown.status_code == 200 and shown.json() == refused.json() and "selects nothing" in shown.text


def test_proposals_need_a_person(server, world):
    """Proposed lesions answer nothing until they are chosen."""
    scan = server.upload(world / "new.nii.gz").json()
    assert server.call("POST", "/queries", json={"scan": scan["id"]}).status_code == 422
    proposed = server.call("POST", f"/scans/{scan['id']}/proposals", json={"threshold": 0.0}).json()
    assert proposed["proposed"] and proposed["lesions"]
    confidence = [one["confidence"] for one in proposed["lesions"]]
    assert confidence == sorted(confidence, reverse=True) and 0 <= confidence[-1] and confidence[0] <= 1
    assert server.call("POST", "/queries", json={"scan": scan["id"]}).status_code == 422
    chosen = server.call("POST", "/queries", json={"scan": scan["id"], "lesions": [1]}).json()
    assert len(chosen["queries"]) == 1 and chosen["queries"][0]["neighbors"]
    assert chosen["settings"]["Query tumors"] == "proposed by the model, accepted by a person"
    assert chosen["queries"][0]["confidence"] == confidence[0]
    boxed = {"scan": scan["id"], "box": proposed["lesions"][0]["box"]}
    assert "Query tumors" not in server.call("POST", "/queries", json=boxed).json()["settings"]
    nothing = server.call("POST", f"/scans/{scan['id']}/proposals", json={"threshold": 1.0})
    assert nothing.status_code == 422 and "proposes no lesion" in nothing.json()["error"]
    added = server.call(
        "POST", "/tumors", json={"query": chosen["id"], "patient_id": "p", "keep_scan": False}
    )
    assert added.status_code == 200 and "confidence" not in server.call("GET", "/archive").json()["columns"]
    assert server.call("POST", "/undo").status_code == 200


def test_slow_reader_is_stopped(world):
    """On the IPv6 loopback, where there is one: a scan that takes longer than it may is given up in words."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        options = {"host": "::1"}
    except OSError:
        options = None
    server = Server(
        world, world / "model.safetensors", world / "index", options=options, read_seconds=0.001, n_queries=2
    )
    assert options is None or server.url.startswith("http://[::1]:")
    response = server.upload(world / "new.nii.gz")
    assert response.status_code == 422 and "could not be read within" in response.json()["error"]
    ids = []
    for n in (1, 2, 3):  # the same server keeps two answers
        asked = {"tumor": "s0/1", "exclude": "same_patient", "n_neighbors": n}
        ids.append(server.call("POST", "/queries", json=asked).json()["id"])
        assert server.call("GET", f"/queries/{ids[-1]}.csv").status_code == 200
    assert [one["id"] for one in server.call("GET", "/queries").json()["queries"]] == [ids[2], ids[1]]
    assert server.call("GET", f"/queries/{ids[0]}.csv").status_code == 404
    assert {path.name for path in server.private.glob("answer-*")} == {f"answer-{key}.csv" for key in ids[1:]}
    assert server.stop()[1] == ""


def test_other_interfaces_need_a_token():
    """Without a token of one's own only loopback is served; a short one is refused, and so is any address."""
    assert "--token" in run("serve index --no-browser --host 192.0.2.1", code=2).output
    assert "--token" in run("serve index --no-browser --token short", code=2).output
    assert "--url" in run("serve index --no-browser --host 0.0.0.0 --token", TOKEN, code=2).output


def test_scripts_of_the_docs(server, world, tmp_path):
    """The PACS script brings the sheet and the SEG of a study."""
    script = Path(__file__).parents[1] / "examples" / "serve" / "pacs_query.py"
    command = [sys.executable, script, server.url, world / "dicom", tmp_path]
    subprocess.run(command, env=os.environ | {"TUMORSIM_TOKEN": TOKEN}, check=True, timeout=120)
    assert (tmp_path / "tumor.dcm").read_bytes()[128:132] == b"DICM"
    assert "query/1" in (tmp_path / "answer.html").read_text()


def test_script_of_slicer(server, world, monkeypatch):
    """What the 3D Slicer script does outside of Slicer: it sends volume and mask, and opens the sheet."""
    taken, shown = [], []
    names = {"vtkMRMLScalarVolumeNode": "new", "vtkMRMLSegmentationNode": None}
    slicer = ModuleType("slicer")
    slicer.util = SimpleNamespace(getNodesByClass=lambda kind: [names[kind]])
    slicer.util.saveNode = lambda node, path: Path(path).write_bytes((world / f"{node}.nii.gz").read_bytes())
    slicer.mrmlScene = SimpleNamespace(AddNewNodeByClass=lambda kind: "new-mask", RemoveNode=taken.append)
    logic = SimpleNamespace(ExportVisibleSegmentsToLabelmapNode=lambda *nodes: None)
    slicer.modules = SimpleNamespace(segmentations=SimpleNamespace(logic=lambda: logic))
    monkeypatch.setitem(sys.modules, "slicer", slicer)
    monkeypatch.setattr("webbrowser.open", shown.append)
    text = (Path(__file__).parents[1] / "examples" / "serve" / "slicer_query.py").read_text()
    text = text.replace("http://127.0.0.1:8765", server.url).replace(
        "the token of 'tumorsim serve --token'", TOKEN
    )
    exec(compile(text, "slicer_query.py", "exec"), {})
    assert taken == ["new-mask"] and "scan/1" in Path(shown[0].removeprefix("file://")).read_text()
    shutil.rmtree(Path(shown[0].removeprefix("file://")).parent)


def test_dockerfile():
    """The container is built of files that are there, runs as a user without rights, and starts the page."""
    root = Path(__file__).parents[1]
    text = (root / "Dockerfile").read_text().replace("\\\n", " ")
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and line[0] != "#"]
    names = [name for name, _ in steps]
    assert names[0] == "FROM" and ":" in steps[0][1] and not steps[0][1].endswith(":latest")
    assert "ADD" not in names and names.index("USER") > max(i for i, n in enumerate(names) if n == "RUN")
    assert dict(steps)["USER"] not in ("root", "0")
    for source in (word for name, rest in steps if name == "COPY" for word in rest.split()[:-1]):
        assert (root / source).exists(), source
    words = json.loads(dict(steps)["CMD"])
    assert json.loads(dict(steps)["ENTRYPOINT"]) == ["tumorsim"] and words[0] == "serve"
    known = {option for one in get_command(app).commands["serve"].params for option in one.opts}
    assert {word for word in words if word.startswith("--")} <= known
