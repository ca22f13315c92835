"""Find the files of weights: in the package, in the cache, or on a mirror."""

import contextlib
import os
import re
import time
from pathlib import Path
from urllib.parse import urlsplit

from tumorsim.exceptions import WeightsError
from tumorsim.io import atomic_path, content_key
from tumorsim.weights._download import download, without_password
from tumorsim.weights._model import load_model
from tumorsim.weights._registry import load_registry

__all__ = ["fetch_weights", "find_weights", "list_weights", "verify_weights", "weights_path"]

_LOCK_SECONDS = 900
_LEFTOVER_SECONDS = 3600


def fetch_weights(name=None, *, force=False, progress=False, registry=None):
    """Return the path of a file of weights, which is downloaded if it is not on this machine.

    It is looked for in the package, then in the cache (a file put there by hand is as good), then on the
    mirrors, one after the other. Wherever it comes from, its SHA-256 is checked.

    Parameters
    ----------
    name : str, optional
        Default: the registry's default weights.
    force : bool, default=False
        Download into the cache even if the file is there, and replace it.
    progress : bool, default=False
        Show a bar on stderr while it is downloaded.
    registry : Registry, optional
        Default: the installed package's.

    Returns
    -------
    path : Path

    Raises
    ------
    WeightsError
        If the name is unknown, a file in the way is not what it should be, ``TUMORSIM_OFFLINE`` forbids a
        download that is needed, or no mirror delivers. The message says what to do.

    See Also
    --------
    weights_path : where the file belongs, without any download.
    """
    registry = registry or load_registry()
    weights = registry.get(name)
    if not force and (path := _find(weights, registry)) is not None:
        return path
    target = _cache_folder() / weights.file
    if _is_offline():
        raise WeightsError(
            f"Weights '{weights.name}' must be downloaded, and TUMORSIM_OFFLINE forbids it. "
            f"Missing: '{target}' ({weights.size} bytes, SHA-256 {weights.sha256}). "
            "Put the file there by hand, or unset TUMORSIM_OFFLINE."
        )
    urls = [f"{base}/{weights.file}" for base in _mirrors(registry)]
    try:
        with _locked(target):
            if not force and (path := _find(weights, registry)) is not None:
                return path  # another process was quicker
            _sweep(target)
            with atomic_path(target) as temporary:
                download(urls, temporary, weights, target, progress=progress)
    except OSError as err:
        raise WeightsError(
            f"'{target}' cannot be written: {err.strerror or err}. "
            "Set TUMORSIM_CACHE to a folder that can be written."
        ) from err
    return target


def find_weights(source=None, *, progress=False, registry=None):
    """Return the path of a model file that is given by its path or by a name of the registry.

    Parameters
    ----------
    source : str or Path, optional
        A name, which `fetch_weights` finds, or else a path. Default: the default weights.
    progress : bool, default=False
        Show a bar on stderr if it is downloaded.
    registry : Registry, optional
        Default: the installed package's.

    Returns
    -------
    path : Path

    Raises
    ------
    WeightsError
        If `source` is neither a name nor a file, or the named weights cannot be had.
    """
    registry = registry or load_registry()
    if source is None or str(source) in registry.weights:
        return fetch_weights(source, progress=progress, registry=registry)
    path = Path(source)
    if not os.path.isfile(path):  # unlike Path's, it takes a folder that may not be entered for none
        names = ", ".join(registry.weights) or "this build ships none"
        raise WeightsError(
            f"A model must be the path of a file or a name of shipped weights ({names}). "
            f"Got '{source}', which is neither."
        )
    return path


def weights_path(name=None, *, registry=None):
    """Return where a file of weights lies, or where in the cache it belongs; nothing is downloaded.

    Parameters
    ----------
    name : str, optional
        Default: the registry's default weights.
    registry : Registry, optional
        Default: the installed package's.

    Returns
    -------
    path : Path
        It need not exist.
    """
    registry = registry or load_registry()
    weights = registry.get(name)
    packaged, cached = _places(weights, registry)
    return packaged if packaged.is_file() and not _mismatch(packaged, weights) else cached


def list_weights(*, registry=None):
    """Return a row for each file of weights that this build knows.

    Parameters
    ----------
    registry : Registry, optional
        Default: the installed package's.

    Returns
    -------
    rows : list of dict
        ``name``, ``version``, ``size`` (bytes), ``license``, ``description``, ``is_default``, and ``where``:
        ``package``, ``cache``, ``damaged`` (a wrong file is in the way), or ``to be fetched``.
    """
    registry = registry or load_registry()
    return [
        {
            "name": weights.name,
            "version": weights.version,
            "size": weights.size,
            "license": weights.license,
            "description": weights.description,
            "is_default": weights.name == registry.default,
            "where": _where(weights, registry),
        }
        for weights in registry.weights.values()
    ]


def verify_weights(name=None, *, registry=None):
    """Check a file of weights from its hash to the network that is built of it; nothing is downloaded.

    Parameters
    ----------
    name : str or Path, optional
        A name of the registry, or the path of any model file, whose own fingerprint is then checked.
        Default: the registry's default weights.
    registry : Registry, optional
        Default: the installed package's.

    Returns
    -------
    facts : dict
        ``path``, ``name`` (None if the file is not one of the registry's), ``sha256``, ``fingerprint``.

    Raises
    ------
    WeightsError
        If the file is missing or not what it should be.
    """
    registry = registry or load_registry()
    if name is None or str(name) in registry.weights:
        weights = registry.get(name)
        path = _find(weights, registry)
        if path is None:
            raise WeightsError(
                f"Weights '{weights.name}' are not on this machine: '{_places(weights, registry)[1]}' does "
                f"not exist. Run 'tumorsim weights fetch {weights.name}'."
            )
    else:
        path = find_weights(name, registry=registry)
    _, config = load_model(path)
    sha256 = content_key(path)
    known = {weights.sha256: weights.name for weights in registry.weights.values()}
    return {
        "path": path,
        "name": known.get(sha256),
        "sha256": sha256,
        "fingerprint": config["fingerprint"],
    }


def _cache_folder():
    """Return the folder of downloaded weights; it need not exist."""
    import pooch

    folder = os.environ.get("TUMORSIM_CACHE") or pooch.os_cache("tumorsim")
    return Path(folder).expanduser().absolute() / "weights"


def _is_offline():
    """Return whether the network must not be touched; a value that is not understood means yes."""
    value = os.environ.get("TUMORSIM_OFFLINE", "").strip().lower()
    return value not in ("", "0", "false", "no", "off")


def _mirrors(registry):
    """Return base URLs in the order in which they are tried."""
    text = os.environ.get("TUMORSIM_WEIGHTS_URL", "")
    bases = [part.rstrip("/") for part in re.split(r"[,\s]+", text) if part] or [registry.url.rstrip("/")]
    for base in bases:
        if not _is_address(base):
            raise WeightsError(
                "Addresses in TUMORSIM_WEIGHTS_URL must be http:// or https:// and a server, such as "
                f"https://host/folder. Got '{without_password(base)}'. "
                "A file from elsewhere can be put into the cache by hand: see 'tumorsim weights path'."
            )
    return bases


def _is_address(base):
    """Return whether a text is an HTTP(S) URL of some server."""
    try:
        parts = urlsplit(base)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _places(weights, registry):
    """Return the file's path in the package and in the cache."""
    return registry.path.parent / weights.file, _cache_folder() / weights.file


def _mismatch(path, weights):
    """Return what is wrong with a file, or None."""
    size = path.stat().st_size
    if size != weights.size:
        return f"Expected {weights.size} bytes, got {size}"
    found = content_key(path)
    return None if found == weights.sha256 else f"Expected SHA-256 {weights.sha256}, got {found}"


def _find(weights, registry):
    """Return the first right file on this machine, or None; a wrong one with no right one is an error."""
    packaged, cached = _places(weights, registry)
    wrong = {}
    for path in (packaged, cached):
        try:
            if path.is_file():
                wrong[path] = _mismatch(path, weights)
                if wrong[path] is None:
                    return path
        except OSError as err:
            raise WeightsError(f"'{path}' cannot be read: {err.strerror or err}. May you read it?") from err
    for path, reason in reversed(wrong.items()):  # the one in the cache is the one to mend
        mend = "Delete it" if path == cached else "Reinstall tumorsim"
        raise WeightsError(
            f"'{path}' is not the file of weights '{weights.name}'. {reason}. "
            f"{mend}, or replace it by 'tumorsim weights fetch {weights.name} --force'."
        )
    return None


def _where(weights, registry):
    """Return in a word where the file is."""
    try:
        path = _find(weights, registry)
    except WeightsError:
        return "damaged"
    if path is None:
        return "to be fetched"
    return "package" if path.parent == registry.path.parent else "cache"


@contextlib.contextmanager
def _locked(target):
    """Let one process at a time download a file; where locks do not work, several may: moves are atomic."""
    import filelock

    target.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(target.with_name(f".{target.name}.lock"), timeout=_LOCK_SECONDS)
    try:
        lock.acquire()
    except filelock.Timeout as err:
        raise WeightsError(
            f"Another process has been downloading '{target}' for {_LOCK_SECONDS} s. "
            "Wait until it has finished, or end it, and try again."
        ) from err
    except NotImplementedError:  # some network file systems
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _sweep(target):
    """Delete what killed downloads left behind, once no living one can be at work on it."""
    for path in target.parent.glob(f".{target.name[:40]}-*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _LEFTOVER_SECONDS:
                path.unlink()
