"""The local page's pull of a study from a DICOMweb server: a real Orthanc, and servers that mean harm."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dicoms
import pytest
import requests
from test_serve import TOKEN, Server, world  # noqa: F401, world is a fixture

pytest.importorskip("dicomweb_client", reason="the page needs the extra serve")
from tumorsim.serve import Limits
from tumorsim.serve._dicomweb import check_address, pull_study

pytestmark = [pytest.mark.slow, pytest.mark.server]
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
SCRIPTS = Path(__file__).parents[1] / "examples" / "serve"


@contextlib.contextmanager
def _orthanc(folder, files, environment=None, **more):
    """Run an Orthanc with the files of one study; yield its address, and its ids of the study."""
    if shutil.which("Orthanc") is None or not PLUGIN.exists():
        pytest.skip("no Orthanc with DICOMweb: apt-get install orthanc orthanc-dicomweb")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    store = str(folder / "orthanc")
    settings = {"HttpPort": port, "DicomServerEnabled": False, "RemoteAccessAllowed": False}
    settings |= {"StorageDirectory": store, "IndexDirectory": store, "Plugins": [str(PLUGIN)]}
    (folder / "orthanc.json").write_text(json.dumps(settings | more))
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "env": environment}
    process = subprocess.Popen(["Orthanc", folder / "orthanc.json"], **options)
    address = f"http://127.0.0.1:{port}"
    try:
        _until(lambda: requests.get(f"{address}/system", timeout=5).ok)
        for path in (p for p in files.rglob("*") if p.is_file()):
            requests.post(f"{address}/instances", data=path.read_bytes(), timeout=30).raise_for_status()
        (study,) = requests.get(f"{address}/studies", timeout=30).json()
        tags = requests.get(f"{address}/studies/{study}", timeout=30).json()["MainDicomTags"]
        yield address, tags["StudyInstanceUID"], study
    finally:
        process.terminate()
        process.wait(20)


def _until(holds):
    """Wait until a condition holds, for a minute at most; a server that is not there yet does not count."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(requests.ConnectionError, requests.Timeout):
            if holds():
                return
        time.sleep(0.2)
    raise AssertionError("It does not hold after a minute.")


@pytest.fixture(scope="module")
def orthanc(world):  # noqa: F811
    """Return the address of an Orthanc with one study, and that study's UID."""
    with _orthanc(world, world / "dicom") as (address, uid, _):
        yield address, uid


def _server(world, url):  # noqa: F811
    """Yield a server with a DICOMweb address; at the end it has logged nothing."""
    server = Server(world, world / "model.safetensors", world / "index", options={"dicomweb": url})
    yield server
    assert server.stop()[1] == ""


@pytest.fixture(scope="module")
def server(world, orthanc):  # noqa: F811
    """Return a server that pulls from the Orthanc."""
    yield from _server(world, f"{orthanc[0]}/dicom-web/")


def _ask(server, scan):
    """Return the answer's queries of all lesions of a scan."""
    return server.call("POST", "/queries", json={"scan": scan["id"]}).json()["queries"]


def test_study_of_an_orthanc(world, orthanc, server):  # noqa: F811
    """A study that is pulled is the scan that its files are, contours and all, and shows no name."""
    study = orthanc[1]
    assert server.call("GET", "/archive").json()["pulls"] is True
    response = server.call("POST", "/scans", json={"study": study, "patient_id": "p7", "series": None})
    assert response.status_code == 200, response.text
    pulled, sent = response.json(), server.upload(*(p for p in (world / "dicom").iterdir() if p.is_file()))
    assert {n: pulled[n] for n in ("shape", "affine", "lesions", "window")} == {
        n: sent.json()[n] for n in ("shape", "affine", "lesions", "window")
    }
    assert pulled["patient_id"] == "p7" and not [s for s in dicoms.SECRETS if s in response.text]
    (mine,), (theirs,) = _ask(server, pulled), _ask(server, sent.json())
    assert [n["tumor_id"] for n in mine["neighbors"]] == [n["tumor_id"] for n in theirs["neighbors"]]
    assert [n["distance"] for n in mine["neighbors"]] == [n["distance"] for n in theirs["neighbors"]]
    answer = server.call("POST", "/queries", json={"scan": pulled["id"]}).json()
    assert server.call("GET", f"/queries/{answer['id']}.seg").content[128:132] == b"DICM"
    by_name = server.call("POST", "/scans", json={"study": study, "series": "post gd"})
    assert by_name.json()["lesions"] == pulled["lesions"]


def test_study_that_is_not_there(server):
    """An unknown UID, what is no UID, and fields that are no text get a sentence each."""
    held = [path for path in server.private.iterdir() if path.is_dir()]
    for body, words in (
        ({"study": "1.2.3"}, "no MR series of this study"),
        ({"study": "../patients"}, "must be a StudyInstanceUID"),
        ({"study": "1.2.3?limit=1"}, "must be a StudyInstanceUID"),
        ({}, "must be a StudyInstanceUID"),
        ({"study": ["1.2"]}, "a wrong type"),
        ({"study": "1.2.3", "series": "("}, "must be a regular expression"),
    ):
        response = server.call("POST", "/scans", json=body)
        assert response.status_code == 422 and words in response.json()["error"], response.text
    assert sum(path.is_dir() for path in server.private.iterdir()) == len(held)


@pytest.mark.parametrize(
    ("limits", "words"), [({"upload_bytes": 2**15}, "0 MB"), ({"n_files": 5}, "5 files")]
)
def test_studies_have_limits(orthanc, tmp_path, limits, words):
    """Too many bytes or files are refused, with the way to fewer."""
    with pytest.raises(ValueError, match=rf"may have .*{words}.*by a pattern"):
        pull_study(tmp_path, f"{orthanc[0]}/dicom-web", orthanc[1], None, Limits(**limits))
    assert len(list((tmp_path / "files").iterdir())) < 10


@pytest.mark.parametrize("url", ["ftp://pacs/x", "pacs", "http://", "http://pacs/x?y=1", "http://pacs/a b"])
def test_addresses(url):
    """What is no address of a server is refused at the start, and not repeated: it may hold a password."""
    with pytest.raises(ValueError, match="must be an address such as"):
        check_address(url)
    assert (
        check_address("https://me:secret@pacs.example/dicom-web/")
        == "https://me:secret@pacs.example/dicom-web"
    )


class Hostile(BaseHTTPRequestHandler):
    """Answers in ways that a server should not."""

    kind, visited = "", []  # what it does, and who came to the address that nobody may be sent to

    def log_message(self, *_):
        """Keep quiet."""

    def do_GET(self):
        """Redirect, refuse, promise too much, say nonsense, or never end."""
        kind = "visited" if self.path == "/visited" else self.kind
        with_list = self.path.endswith("/series")
        listed = [{"00080060": {"Value": ["MR"]}, "0020000E": {"Value": ["1.2"]}}]
        listed[0]["00081190"] = {"Value": [f"http://127.0.0.1:{self.server.server_port}/visited"]}
        Hostile.visited += [kind] if kind == "visited" else []
        if kind in ("redirect", "password") or (kind == "late" and not with_list):
            self.send_response(401 if kind == "password" else 302)
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/visited")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/dicom+json" if kind != "page" else "text/html")
        self.end_headers()
        body = {"nonsense": b'[{"00080060": 5}]', "page": b"<html>", "list": b"{}"}.get(kind)
        body = body or (json.dumps(listed).encode() if with_list else b"no multipart")
        try:
            self.wfile.write(body)
            while kind == "endless" and not with_list:
                self.wfile.write(b"x")
                time.sleep(0.1)
        except OSError:
            pass


@pytest.fixture(scope="module")
def hostile(world):  # noqa: F811
    """Return a server that pulls from one that means harm."""
    other = ThreadingHTTPServer(("127.0.0.1", 0), Hostile)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{other.server_port}"
    server = Server(
        world, world / "model.safetensors", world / "index", options={"dicomweb": url}, upload_seconds=15
    )
    yield server
    other.shutdown()
    other.server_close()
    assert server.stop()[1] == ""


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("redirect", "sends on to another address: give that one"),
        ("late", "sends on to another address: give that one"),
        ("password", "sent no study (401). See address and ~/.netrc"),
        ("page", "sent no study"),
        ("nonsense", "sent no study"),
        ("list", "no MR series"),
        ("single", "sent no study"),
        ("endless", "could not be read within 15 s"),
    ],
)
def test_hostile_servers(hostile, kind, words):
    """Whatever a DICOMweb server sends, the page gets a sentence in time, and nobody else is connected to."""
    Hostile.kind, start = kind, time.monotonic()
    response = hostile.call("POST", "/scans", json={"study": "1.2.840"})
    assert response.status_code == 422 and words in response.json()["error"], response.text
    assert time.monotonic() - start < 90 and Hostile.visited == []
    assert "127.0.0.1" not in response.text and "1.2.840" not in response.text
    busy = [hostile.call("POST", "/scans", json={}) for _ in range(4)]  # no upload's place is lost
    assert {one.status_code for one in busy} == {422}


def test_server_that_is_away(tmp_path):
    """A server that nobody runs is said to be that."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(OSError, match=r"sent no study \(ConnectionError\)"):
        pull_study(tmp_path, f"http://127.0.0.1:{port}", "1.2.840", None, Limits())


def test_script_of_an_orthanc(world, orthanc, server):  # noqa: F811
    """A real Orthanc's study is found by its UID, and answered."""
    address, study = orthanc
    command = [sys.executable, SCRIPTS / "orthanc_query.py", address, study, server.url]
    environment, options = os.environ | {"TUMORSIM_TOKEN": TOKEN}, {"capture_output": True, "text": True}
    done = subprocess.run(command, env=environment, check=True, timeout=120, **options)
    assert done.stdout.startswith("query/1 1 ") and done.stdout.count("\n") == 5


def test_pacs_script_by_uid(orthanc, server, tmp_path):
    """The PACS script needs a study's UID only."""
    command = [sys.executable, SCRIPTS / "pacs_query.py", server.url, orthanc[1], tmp_path]
    subprocess.run(command, env=os.environ | {"TUMORSIM_TOKEN": TOKEN}, check=True, timeout=120)
    assert (tmp_path / "tumor.dcm").read_bytes()[128:132] == b"DICM"
    assert "query/1" in (tmp_path / "answer.html").read_text()


def test_orthanc_keeps_sheets(world, server, tmp_path):  # noqa: F811
    """An Orthanc with the Lua script attaches the answer sheet to a new study."""
    environment = os.environ | {"TUMORSIM_URL": server.url, "TUMORSIM_TOKEN": TOKEN}
    more = {"LuaScripts": [str(SCRIPTS / "orthanc_sheets.lua")], "StableAge": 1}
    with _orthanc(tmp_path, world / "dicom", environment, **more) as (address, _, study):
        sheet = f"{address}/studies/{study}/attachments/1030/data"
        _until(lambda: requests.get(sheet, timeout=30).ok)
        assert "query/1" in requests.get(sheet, timeout=30).text
