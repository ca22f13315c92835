"""Shipped weights: found in the package, in the cache or on a server, and never anything but whole."""

import base64
import io
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading

import pooch
import pytest
import torch
from mirrors import deliver, in_turn, refuse, serving
from safetensors import safe_open
from typer.testing import CliRunner

from tumorsim.cli import app
from tumorsim.exceptions import WeightsError
from tumorsim.io import content_key
from tumorsim.nn import Network
from tumorsim.weights import (
    fetch_weights,
    find_weights,
    fingerprint,
    list_weights,
    load_model,
    load_registry,
    save_model,
    verify_weights,
    weights_path,
)

FILE = "tumorsim-t1c-v1.safetensors"
EMPTY = '{"default": null, "url": "http://127.0.0.1:9", "weights": {}}'
VARIABLES = (
    "TUMORSIM_WEIGHTS_URL TUMORSIM_OFFLINE HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY http_proxy https_proxy "
    "all_proxy no_proxy REQUESTS_CA_BUNDLE CURL_CA_BUNDLE"
)


def small_network():
    """Return a network of few channels and the configuration that a model file needs."""
    torch.manual_seed(0)
    network = Network({"type": 2}, architecture="fast", n_channels=8, n_blocks=1)
    preprocessing = {"spacing": [2.0, 2.0, 2.0]}
    config = {
        "architecture": {"architecture": "fast", "n_channels": 8, "n_blocks": 1},
        "preprocessing": preprocessing,
        "classes": {"type": ["meningioma", "metastasis"]},
        "fingerprint": fingerprint(network.state_dict(), preprocessing),
    }
    return network, config


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return the path of a small model file."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, *small_network())
    return path


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """Ignore this machine's cache, proxies and settings, and retry without a pause."""
    for name in VARIABLES.split():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TUMORSIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)


@pytest.fixture
def packaged(model, tmp_path):
    """Return the path of a registry with the small model beside it, as in the wheel."""
    path = tmp_path / "package" / "registry.json"
    path.parent.mkdir()
    entry = {"version": "1", "file": FILE, "sha256": content_key(model), "size": model.stat().st_size}
    entry |= {"license": "CC0-1.0", "description": "For tests."}
    path.write_text(json.dumps(json.loads(EMPTY) | {"default": "t1c-v1", "weights": {"t1c-v1": entry}}))
    shutil.copy(model, path.parent / FILE)
    return path


@pytest.fixture
def registry(packaged):
    """Return a registry whose file is not in the package."""
    (packaged.parent / FILE).unlink()
    return load_registry(packaged)


@pytest.fixture
def cached(tmp_path):
    """Return where the file belongs in the cache."""
    return tmp_path / "cache" / "weights" / FILE


def leftovers(path):
    """Return what lies beside a path but itself and the lock."""
    return [p.name for p in path.parent.iterdir() if p != path and p.suffix != ".lock"]


@pytest.fixture
def no_network(monkeypatch):
    """Make any use of a socket an error that nothing catches."""

    def refuse_socket(*args, **kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse_socket)
    monkeypatch.setattr(socket, "getaddrinfo", refuse_socket)


def run(*words, code=0):
    """Run a command and check its exit code."""
    result = CliRunner().invoke(app, ["weights", *map(str, words)])
    assert result.exit_code == code, f"{words}: {result.output} {result.exception!r}"
    assert "Traceback" not in result.output
    return result


# The file itself


def test_float16_file_is_half_as_large_and_whole(model, tmp_path):
    """Kernels come back rounded as float32, the rest as it was, under the rounded numbers' fingerprint."""
    network, config = small_network()
    path = tmp_path / "half.safetensors"
    save_model(path, network, config, dtype="float16")
    loaded, found = load_model(path)
    assert found["fingerprint"] != config["fingerprint"]
    assert found["fingerprint"] == fingerprint(loaded.state_dict(), config["preprocessing"])
    for name, tensor in network.state_dict().items():
        wanted = tensor.half().float() if tensor.ndim > 1 else tensor
        assert torch.equal(loaded.state_dict()[name], wanted), name
        assert loaded.state_dict()[name].dtype == tensor.dtype
    with safe_open(path, "pt") as half, safe_open(model, "pt") as full:
        sizes = [sum(f.get_tensor(k).nbytes for k in f.keys()) for f in (half, full)]
    assert sizes[0] < 0.6 * sizes[1]


def test_float16_that_does_not_fit_is_refused(tmp_path):
    """A number beyond 65504 is an error that names the tensor, and so is another type."""
    network, config = small_network()
    with pytest.raises(ValueError, match=r"'float16' or None\. Got 'int8'"):
        save_model(tmp_path / "m.safetensors", network, config, dtype="int8")
    with torch.no_grad():
        network.heads[0].weight[0, 0] = 1e5
    with pytest.raises(ValueError, match=r"'heads\.0\.weight' must be finite"):
        save_model(tmp_path / "m.safetensors", network, config, dtype="float16")
    assert not (tmp_path / "m.safetensors").exists()


# The registry


def test_shipped_registry_is_whole():
    """The package's registry can be read, and what it lists lies beside it, is small and is right."""
    shipped = load_registry()
    assert shipped.url.startswith("https://")
    for weights in shipped.weights.values():
        assert weights.size <= 6_000_000 and weights.license and weights.description
        assert verify_weights(weights.name)["name"] == weights.name
    assert bool(shipped.weights) == (shipped.default is not None)


@pytest.mark.parametrize("change", ["{", '{"weights": []}', "../../x", "0" * 63, "gone"])
def test_garbled_registry_is_named(packaged, change):
    """Whatever is wrong with it, also a file name that leads elsewhere, is one clear error."""
    content = json.loads(packaged.read_text())
    if change == "../../x":
        content["weights"]["t1c-v1"]["file"] = change
    elif change == "0" * 63:
        content["weights"]["t1c-v1"]["sha256"] = change
    elif change == "gone":
        content["default"] = change
    packaged.write_text(change if change.startswith("{") else json.dumps(content))
    with pytest.raises(WeightsError, match=r"registry\.json' cannot be used"):
        load_registry(packaged)


def test_unknown_name_and_empty_registry(packaged, tmp_path):
    """Both say so; so does a registry without a default."""
    with pytest.raises(WeightsError, match=r"one of \['t1c-v1'\]\. Got 't2'"):
        fetch_weights("t2", registry=load_registry(packaged))
    packaged.write_text(packaged.read_text().replace('"default": "t1c-v1"', '"default": null'))
    with pytest.raises(WeightsError, match="no default weights"):
        fetch_weights(registry=load_registry(packaged))
    packaged.write_text(EMPTY)
    with pytest.raises(WeightsError, match="ships no weights"):
        fetch_weights(registry=load_registry(packaged))
    assert list_weights(registry=load_registry(packaged)) == []


# On this machine


def test_packaged_file_needs_no_network(packaged, no_network, tmp_path, monkeypatch):
    """What is in the wheel is taken from there, offline or not, and no cache is made."""
    found = load_registry(packaged)
    assert fetch_weights(registry=found) == packaged.parent / FILE == weights_path(registry=found)
    monkeypatch.setenv("TUMORSIM_OFFLINE", "1")
    assert fetch_weights("t1c-v1", registry=found) == packaged.parent / FILE
    assert list_weights(registry=found)[0]["where"] == "package"
    assert not (tmp_path / "cache").exists()


def test_file_put_there_by_hand_is_accepted(model, registry, cached, no_network):
    """A copy in the cache is as good as a download."""
    assert weights_path(registry=registry) == cached
    cached.parent.mkdir(parents=True)
    shutil.copy(model, cached)
    assert fetch_weights(registry=registry) == cached
    assert verify_weights(registry=registry)["path"] == cached
    assert list_weights(registry=registry)[0]["where"] == "cache"


@pytest.mark.parametrize("kind", ["truncated", "changed"])
def test_wrong_file_put_there_by_hand_is_refused(model, registry, cached, no_network, kind):
    """It stays, and the error names it, what was expected and found, and both ways to mend it."""
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    cached.parent.mkdir(parents=True)
    cached.write_bytes(content if kind == "changed" else content[:-9])
    with pytest.raises(WeightsError, match=r"Expected .*, got .*Delete it, or .*--force") as caught:
        fetch_weights(registry=registry)
    assert str(cached) in str(caught.value)
    assert content_key(cached) in str(caught.value)
    assert list_weights(registry=registry)[0]["where"] == "damaged"
    assert cached.exists()
    with pytest.raises(WeightsError, match="--force"):
        verify_weights(registry=registry)


def test_force_replaces_a_wrong_file(model, registry, cached, monkeypatch):
    """With force it is downloaded over it, but a download that fails leaves it."""
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"old")
    with serving({"good": deliver(model.read_bytes()), "bad": refuse(404)}) as server:
        monkeypatch.setenv("TUMORSIM_WEIGHTS_URL", f"{server.url}/bad")
        with pytest.raises(WeightsError, match="404"):
            fetch_weights(force=True, registry=registry)
        assert cached.read_bytes() == b"old"
        monkeypatch.setenv("TUMORSIM_WEIGHTS_URL", f"{server.url}/good")
        assert fetch_weights(force=True, registry=registry) == cached
    assert cached.read_bytes() == model.read_bytes()


def test_damaged_package_can_be_mended_by_the_cache(model, packaged, cached, no_network):
    """A wrong file in the package is told; a right one in the cache is used instead."""
    (packaged.parent / FILE).write_bytes(b"version https://git-lfs")
    found = load_registry(packaged)
    with pytest.raises(WeightsError, match="Reinstall tumorsim, or"):
        fetch_weights(registry=found)
    cached.parent.mkdir(parents=True)
    shutil.copy(model, cached)
    assert fetch_weights(registry=found) == cached == weights_path(registry=found)


def test_offline_says_what_is_missing(registry, cached, no_network, monkeypatch):
    """No socket is opened; name, path, size and hash are told, also with force."""
    for value in ("1", "true", "what?"):
        monkeypatch.setenv("TUMORSIM_OFFLINE", value)
        for force in (False, True):
            with pytest.raises(WeightsError, match="TUMORSIM_OFFLINE forbids it") as caught:
                fetch_weights(force=force, registry=registry)
            weights = registry.get()
            for part in (weights.name, str(cached), str(weights.size), weights.sha256):
                assert part in str(caught.value)
    assert not cached.parent.exists()


def test_find_weights_takes_names_and_paths(model, packaged):
    """A name is looked up, a path is checked, anything else is refused."""
    found = load_registry(packaged)
    assert find_weights(registry=found) == find_weights("t1c-v1", registry=found) == packaged.parent / FILE
    assert find_weights(model, registry=found) == model
    with pytest.raises(WeightsError, match=r"\(t1c-v1\)\. Got 'nowhere', which is neither"):
        find_weights("nowhere", registry=found)


def test_default_cache_is_the_users(registry, monkeypatch):
    """Without TUMORSIM_CACHE the folder is the one that the system has for caches."""
    import pooch

    monkeypatch.delenv("TUMORSIM_CACHE")
    assert weights_path(registry=registry) == pooch.os_cache("tumorsim") / "weights" / FILE
    monkeypatch.setenv("TUMORSIM_CACHE", "~/somewhere")
    assert weights_path(registry=registry).is_absolute() and "~" not in str(weights_path(registry=registry))


def test_verify_needs_no_registered_file(model, registry, tmp_path):
    """A model of one's own is checked by its fingerprint; the registry's is known wherever it lies."""
    assert verify_weights(model, registry=registry)["name"] == "t1c-v1"
    network, config = small_network()
    save_model(tmp_path / "own.safetensors", network, config | {"note": "mine"})
    facts = verify_weights(tmp_path / "own.safetensors", registry=registry)
    assert facts["name"] is None and facts["fingerprint"] == config["fingerprint"]
    with pytest.raises(WeightsError, match="Run 'tumorsim weights fetch t1c-v1'"):
        verify_weights(registry=registry)


# From a server


def test_download(model, registry, cached, monkeypatch):
    """The file is fetched once from <url>/<file>, into the cache, and found there from then on."""
    with serving({"a": deliver(model.read_bytes())}) as server:
        monkeypatch.setenv("TUMORSIM_WEIGHTS_URL", f"{server.url}/a/")
        assert fetch_weights(registry=registry) == cached
        assert fetch_weights(registry=registry) == cached
        assert server.requests == [f"/a/{FILE}"]
    assert cached.read_bytes() == model.read_bytes()
    assert leftovers(cached) == []
    assert load_model(cached)[1]["classes"] == {"type": ["meningioma", "metastasis"]}


def test_default_address_is_the_registrys(model, packaged, cached):
    """Without a setting the registry's URL is asked."""
    (packaged.parent / FILE).unlink()
    with serving({"a": deliver(model.read_bytes())}) as server:
        content = json.loads(packaged.read_text()) | {"url": f"{server.url}/a"}
        packaged.write_text(json.dumps(content))
        assert fetch_weights(registry=load_registry(packaged)) == cached


def test_bar_is_drawn_on_stderr(model, registry, monkeypatch, capfd):
    """With progress the file's name and its size are on stderr, and stdout stays clean."""
    with serving({"a": deliver(model.read_bytes())}) as server:
        monkeypatch.setenv("TUMORSIM_WEIGHTS_URL", f"{server.url}/a")
        fetch_weights(progress=True, registry=registry)
    printed = capfd.readouterr()
    assert FILE in printed.err and "100%" in printed.err and printed.out == ""


def broken(model):
    """Return content of servers that fail, by what the error says of each."""
    content = model.read_bytes()
    other = bytearray(content)
    other[len(other) // 2] ^= 1
    return {
        "does not match the known hash: expected": deliver(bytes(other)),
        "broke off midway": deliver(content[:-100], promised=len(content)),
        f"sent {len(content) - 100} of {len(content)} bytes": deliver(content[:-100]),
        f"more than the {len(content)} bytes": deliver(content + b"more"),
        "HTTP 404": refuse(404),
        "HTTP 503": refuse(503),
    }


@pytest.mark.parametrize("i", range(6))
def test_what_a_server_does_wrong_leaves_nothing(model, registry, cached, monkeypatch, i):
    """Every failure is one error that names the URL, the reason and what to do; no file is left."""
    reason, answer = list(broken(model).items())[i]
    with serving({"bad": answer}) as server:
        monkeypatch.setenv("TUMORSIM_WEIGHTS_URL", f"{server.url}/bad")
        with pytest.raises(WeightsError, match="could not be downloaded") as caught:
            fetch_weights(registry=registry)
        asked = len(server.requests)
    for part in (f"{server.url}/bad/{FILE}: ", reason, "Set TUMORSIM_WEIGHTS_URL", str(cached)):
        assert part in str(caught.value)
    assert not cached.exists() and leftovers(cached) == []
    permanent = "more than" in reason or "HTTP 404" in reason
    assert asked == (1 if permanent else 3)


def test_mirrors_are_tried_in_turn(model, registry, cached, monkeypatch):
    """Missing, wrong and dead mirrors are passed over for the one that has the file."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}"
    content = model.read_bytes()
    answers = {"gone": refuse(404), "wrong": deliver(b"<html>Log in</html>"), "good": deliver(content)}
    with serving(answers) as server:
        bases = f"{server.url}/gone, {server.url}/wrong\n{dead} {server.url}/good {server.url}/never"
        monkeypatch.setenv("TUMORSIM_WEIGHTS_URL", bases)
        assert fetch_weights(registry=registry) == cached
        assert list(dict.fromkeys(server.requests)) == [f"/{p}/{FILE}" for p in ("gone", "wrong", "good")]
    assert cached.read_bytes() == content


def test_every_mirror_that_failed_is_named(registry, monkeypatch):
    """The error lists all of them with their reasons, without passwords."""
    with serving({"a": refuse(404), "b": refuse(403)}) as server:
        secret = server.url.replace("http://", "http://me:secret@")
        monkeypatch.setenv("TUMORSIM_WEIGHTS_URL", f"{secret}/a,{server.url}/b")
        with pytest.raises(WeightsError) as caught:
            fetch_weights(registry=registry)
    text = str(caught.value)
    assert f"{server.url}/a/{FILE}: HTTP 404" in text and f"{server.url}/b/{FILE}: HTTP 403" in text
    assert "secret" not in text


def test_password_is_sent_and_not_shown(model, registry, cached, monkeypatch, capfd):
    """User and password of an address reach the server; nothing that is printed holds them."""
    seen = []

    def ask(handler):
        seen.append(handler.headers["Authorization"])
        deliver(model.read_bytes())(handler)

    with serving({"a": ask}) as server:
        monkeypatch.setenv(
            "TUMORSIM_WEIGHTS_URL", server.url.replace("http://", "http://me:s%40cret@") + "/a"
        )
        assert fetch_weights(progress=True, registry=registry) == cached
    assert seen == ["Basic " + base64.b64encode(b"me:s@cret").decode()]
    monkeypatch.setenv("TUMORSIM_WEIGHTS_URL", "ftp://me:s%40cret@host/x")
    with pytest.raises(WeightsError, match=r"Got 'ftp://host/x'"):
        fetch_weights(force=True, registry=registry)
    assert "cret" not in "".join(capfd.readouterr())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_cache_can_be_shared(model, registry, cached, monkeypatch):
    """Others can read a downloaded file, as far as the umask allows."""
    before = os.umask(0o027)
    try:
        with serving({"a": deliver(model.read_bytes())}) as server:
            monkeypatch.setenv("TUMORSIM_WEIGHTS_URL", f"{server.url}/a")
            fetch_weights(registry=registry)
    finally:
        os.umask(before)
    assert cached.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("url", ["ftp://host/x", "/mnt/share", "file:///mnt/share"])
def test_address_that_is_none(registry, monkeypatch, no_network, url):
    """Only HTTP and HTTPS are addresses; the error leads to the way by hand."""
    monkeypatch.setenv("TUMORSIM_WEIGHTS_URL", url)
    with pytest.raises(WeightsError, match=r"must be http.*tumorsim weights path"):
        fetch_weights(registry=registry)


@pytest.mark.parametrize("url", ["http://", "https://[::1", "http://a b/"])
def test_address_that_is_malformed(registry, monkeypatch, no_network, url):
    """An address that cannot be one is an error of the same kind, not of another library's."""
    monkeypatch.setenv("TUMORSIM_WEIGHTS_URL", url)
    with pytest.raises(WeightsError):
        fetch_weights(registry=registry)


def test_dropped_connection_is_tried_again(model, registry, cached, monkeypatch):
    """A connection that breaks midway once costs a second request, no more."""
    content = model.read_bytes()
    with serving({"a": in_turn(deliver(content[:999], promised=len(content)), deliver(content))}) as server:
        monkeypatch.setenv("TUMORSIM_WEIGHTS_URL", f"{server.url}/a")
        assert fetch_weights(registry=registry) == cached
        assert len(server.requests) == 2
    assert cached.read_bytes() == content


FETCH = (
    "import sys; from tumorsim.weights import *; print(fetch_weights(registry=load_registry(sys.argv[1])))"
)


def fetching(packaged, url):
    """Start a process of its own that fetches the default weights."""
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, str(packaged)],
        env=os.environ | {"TUMORSIM_WEIGHTS_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="a process cannot be killed like this on Windows")
def test_killed_download_starts_anew(model, registry, packaged, cached, monkeypatch):
    """A killed process leaves nothing in the cache, and the next one succeeds."""
    content, half, end = model.read_bytes(), threading.Event(), threading.Event()

    def stop_midway(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2])
        handler.wfile.flush()
        half.set()
        end.wait(20)

    with serving({"a": in_turn(stop_midway, deliver(content))}) as server:
        process = fetching(packaged, f"{server.url}/a")
        assert half.wait(20)
        process.kill()
        process.communicate()
        end.set()
        assert not cached.exists()
        assert weights_path(registry=registry) == cached
        assert list_weights(registry=registry)[0]["where"] == "to be fetched"
        assert leftovers(cached) == []
        monkeypatch.setenv("TUMORSIM_WEIGHTS_URL", f"{server.url}/a")
        assert fetch_weights(registry=registry) == cached
    assert cached.read_bytes() == content and leftovers(cached) == []


def test_two_processes_at_once(model, registry, packaged, cached):
    """Both get the file, and one download serves both."""
    content, both = model.read_bytes(), threading.Event()

    def slowly(handler):
        both.wait(0.5)  # while this request is held, the other process comes
        deliver(content)(handler)

    with serving({"a": slowly}) as server:
        processes = [fetching(packaged, f"{server.url}/a") for _ in range(2)]
        for process in processes:
            out, err = process.communicate(timeout=60)
            assert (process.returncode, out.strip()) == (0, str(cached)), err
        assert len(server.requests) == 1
    assert cached.read_bytes() == content and leftovers(cached) == []


def test_without_locks_downloads_still_work(model, registry, cached, monkeypatch):
    """On a file system without locks nothing is locked; the move at the end is atomic anyway."""
    import filelock

    def no_locks(self):
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(filelock.FileLock, "_acquire", no_locks)
    with serving({"a": deliver(model.read_bytes())}) as server:
        monkeypatch.setenv("TUMORSIM_WEIGHTS_URL", f"{server.url}/a")
        assert fetch_weights(registry=registry) == cached


def test_cache_that_cannot_be_written(registry, tmp_path, monkeypatch):
    """The error names the variable that mends it."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TUMORSIM_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match=r"cannot be written: .*Set TUMORSIM_CACHE"):
        fetch_weights(registry=registry)


def test_full_disk_leaves_nothing_of_a_download(model, registry, cached, monkeypatch, tmp_path):
    """Where the transfer finds no room, the error says where; the next removes scraps of a killed one."""
    resource = pytest.importorskip("resource", reason="this system has no limits of processes")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with serving({"a": deliver(model.read_bytes())}) as server:
        monkeypatch.setenv("TUMORSIM_WEIGHTS_URL", f"{server.url}/a")
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            with pytest.raises(
                WeightsError, match=rf"{tmp_path}/tumorsim-.*cannot be written: File too large"
            ):
                fetch_weights(registry=registry)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert leftovers(cached) == [] and not list(tmp_path.glob("tumorsim-*"))
        scrap = cached.with_name(f".{FILE}-abcd1234.safetensors")  # as a killed process leaves it
        scrap.write_bytes(b"half")
        assert fetch_weights(registry=registry) == cached
    assert not scrap.exists() and cached.read_bytes() == model.read_bytes()


def test_cache_that_cannot_be_read(registry, tmp_path, monkeypatch):
    """What the system refuses to look at is an error of ours, and is listed."""
    monkeypatch.setenv("TUMORSIM_CACHE", str(tmp_path / ("long" * 100)))
    with pytest.raises(WeightsError, match="cannot be read: File name too long"):
        fetch_weights(registry=registry)
    assert list_weights(registry=registry)[0]["where"] == "damaged"


def test_model_file_that_cannot_be_read(tmp_path):
    """A file that is there is not said to be missing."""
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_model(tmp_path / "link")
    with pytest.raises(WeightsError, match="does not exist"):
        load_model(tmp_path / "gone")


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy"])
def test_proxy_is_honored(model, registry, cached, monkeypatch, variable):
    """The request goes to the proxy, with the whole URL of a host that does not exist."""
    with serving({"w": deliver(model.read_bytes())}) as proxy:
        monkeypatch.setenv(variable, proxy.url)
        monkeypatch.setenv("TUMORSIM_WEIGHTS_URL", "http://weights.invalid/w")
        assert fetch_weights(registry=registry) == cached
        assert proxy.requests == [f"http://weights.invalid/w/{FILE}"]


def test_dead_proxy_is_named(registry, monkeypatch):
    """The reason is the proxy, not the server."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("TUMORSIM_WEIGHTS_URL", "http://weights.invalid/w")
    with pytest.raises(WeightsError, match="the proxy of HTTP_PROXY"):
        fetch_weights(registry=registry)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_own_certificates_are_honored(model, registry, cached, monkeypatch, tmp_path):
    """An unknown certificate is refused with the remedy, and trusted once REQUESTS_CA_BUNDLE names it."""
    made = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=x"
    options = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*made.split(), *options], cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with serving({"a": deliver(model.read_bytes())}, tls=context) as server:
        server.handle_error = lambda *args: None  # the refused handshake would be printed
        monkeypatch.setenv("TUMORSIM_WEIGHTS_URL", f"{server.url}/a")
        with pytest.raises(WeightsError, match="not trusted; REQUESTS_CA_BUNDLE"):
            fetch_weights(registry=registry)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "cert.pem"))
        assert fetch_weights(registry=registry) == cached


def test_wrong_certificates_are_a_reason_and_not_the_end(model, registry, cached, monkeypatch):
    """A bundle that is not there stops one mirror, and is named; so is a server that speaks no TLS."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    with serving({"a": deliver(model.read_bytes())}) as server:
        tls = server.url.replace("http:", "https:")
        monkeypatch.setenv("TUMORSIM_WEIGHTS_URL", f"{tls}/a")
        with pytest.raises(WeightsError, match=r"/nowhere/ca.pem; REQUESTS_CA_BUNDLE must name"):
            fetch_weights(registry=registry)
        monkeypatch.delenv("REQUESTS_CA_BUNDLE")
        with pytest.raises(WeightsError, match="does not answer in TLS; is it an http:// address"):
            fetch_weights(registry=registry)
        monkeypatch.setenv("TUMORSIM_WEIGHTS_URL", f"http://127.0.0.1:99999/a, {server.url}/a")
        assert fetch_weights(registry=registry) == cached


# Commands


@pytest.fixture
def as_installed(registry, monkeypatch):
    """Make the commands use the registry whose file is to be fetched."""
    monkeypatch.setattr("tumorsim.weights._registry.REGISTRY_PATH", registry.path)


def test_commands_from_list_to_verify(model, registry, as_installed, cached, monkeypatch):
    """What is to be fetched is fetched, then listed in the cache, and verified."""
    lines = run("list").stdout.splitlines()
    assert lines[0].split() == ["name", "version", "size", "license", "where"]
    assert lines[1].split() == ["t1c-v1", "1", "0.2", "MB", "CC0-1.0", "to", "be", "fetched", "(default)"]
    assert lines[-1] == "t1c-v1: For tests."
    located = run("path")
    assert located.stdout.strip() == str(cached) and "no file at this path yet" in located.stderr
    assert "Run 'tumorsim weights fetch t1c-v1'" in run("verify", code=2).stderr
    with serving({"a": deliver(model.read_bytes())}) as server:
        monkeypatch.setenv("TUMORSIM_WEIGHTS_URL", f"{server.url}/a")
        assert run("fetch").stdout.strip() == str(cached)
        run("fetch", "t1c-v1")
        assert len(server.requests) == 1
        run("fetch", "--force")
        assert len(server.requests) == 2
    assert "cache" in run("list").stdout
    assert run("path", "t1c-v1").output.strip() == str(cached)
    for what in ("t1c-v1", cached, model):
        told = run("verify", what).stdout
        assert "is whole" in told and registry.get().sha256 in told and "t1c-v1" in told


def test_downloads_are_logged_where_stderr_is_now(model, as_installed, cached, monkeypatch):
    """A stderr that was closed after pooch was imported, as test runners do, leaves no traceback."""
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(pooch.get_logger().handlers[0], "stream", closed)
    with serving({"a": refuse(404)}) as server:
        monkeypatch.setenv("TUMORSIM_WEIGHTS_URL", f"{server.url}/a")
        result = run("fetch", code=2)
    assert "HTTP 404" in result.stderr and "Downloading" in result.stderr


def test_commands_end_with_two_and_say_why(model, as_installed, cached, monkeypatch, tmp_path):
    """Unknown names, offline, failed downloads, damaged files: exit code 2, a reason, nothing on stdout."""
    monkeypatch.setenv("TUMORSIM_OFFLINE", "1")
    for words, reason in (
        (("fetch", "t2"), "Weights must be one of"),
        (("path", "t2"), "Weights must be one of"),
        (("verify", "t2"), "which is neither"),
        (("fetch",), "TUMORSIM_OFFLINE forbids it"),
    ):
        result = run(*words, code=2)
        assert result.stderr.startswith("Error: ") and reason in result.stderr and result.stdout == ""
    (tmp_path / "bad.safetensors").write_bytes(model.read_bytes()[:-1])
    assert "damaged" in run("verify", tmp_path / "bad.safetensors", code=2).stderr
    monkeypatch.setenv("TUMORSIM_OFFLINE", "0")
    with serving({"a": refuse(404)}) as server:
        monkeypatch.setenv("TUMORSIM_WEIGHTS_URL", f"{server.url}/a")
        assert "HTTP 404" in run("fetch", code=2).stderr
    assert not cached.exists()


def test_commands_of_a_build_without_weights(registry, as_installed):
    """They say so; listing nothing is no error."""
    registry.path.write_text(EMPTY)
    assert "ships no weights" in run("list").stdout
    for command in ("fetch", "path", "verify"):
        assert "ships no weights" in run(command, code=2).stderr
