"""One file from the first server that delivers it whole; pooch transfers it, checks its hash and retries."""

import contextlib
import logging
import os
import re
import shutil
import sys
import tempfile
from urllib.parse import urlsplit

from tumorsim.exceptions import WeightsError
from tumorsim.io import atomic_path

__all__ = ["download", "locked"]

_TIMEOUT = (10, 30)  # seconds to connect, seconds without a byte
_RETRIES = 2
_LOCK_SECONDS = 900


def download(weights, target, url, *, progress=False):
    """Write a file of weights to `target`, atomically, from the first mirror that has it.

    Mirrors are the addresses in ``TUMORSIM_WEIGHTS_URL``, or else `url`. Proxies (``HTTPS_PROXY`` …) and CA
    bundles (``REQUESTS_CA_BUNDLE``) are taken from the environment.

    Parameters
    ----------
    weights : Weights
        What the file must be.
    target : Path
    url : str
        Folder on a server.
    progress : bool, default=False
        Show a bar on stderr.

    Raises
    ------
    WeightsError
        If an address is malformed, or no mirror delivers; the error lists each mirror with its reason.
    OSError
        If the file cannot be written.
    """
    import pooch

    reasons = []
    with _logging_to_stderr(), tempfile.TemporaryDirectory(prefix="tumorsim-") as folder:
        for address, auth in _mirrors(url):
            files = pooch.create(
                folder, address, registry={weights.file: weights.sha256}, retry_if_failed=_RETRIES
            )
            try:
                path = files.fetch(weights.file, downloader=_downloader(weights, auth, progress))
            except (_Failed, ValueError) as err:
                reasons.append(f"  {files.get_url(weights.file)}: {err}")
                continue
            with atomic_path(target) as temporary:
                shutil.copyfile(path, temporary)
            return
    raise WeightsError(
        f"Weights '{weights.name}' could not be downloaded:\n" + "\n".join(reasons) + "\n"
        "Set TUMORSIM_WEIGHTS_URL to a folder on a server that has the file (several: separated by commas), "
        f"or put the file at '{target}' by hand ({weights.size} bytes, SHA-256 {weights.sha256})."
    )


@contextlib.contextmanager
def _logging_to_stderr():
    """Let pooch log to the present stderr: it keeps that of its first import, which may be closed by now."""
    import pooch

    handlers = [h for h in pooch.get_logger().handlers if type(h) is logging.StreamHandler]
    streams = [handler.stream for handler in handlers]
    for handler in handlers:
        handler.stream = sys.stderr
    try:
        yield
    finally:
        for handler, stream in zip(handlers, streams, strict=True):
            handler.stream = stream


@contextlib.contextmanager
def locked(target):
    """Let one process at a time download `target`; where locks do not work, several may: moves are atomic.

    Raises
    ------
    WeightsError
        If another process holds the lock for a quarter of an hour.
    """
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


def _mirrors(url):
    """Return (address, None or (user, password)) of each mirror in the order in which they are tried."""
    from requests.utils import get_auth_from_url, urldefragauth

    mirrors = []
    for base in os.environ.get("TUMORSIM_WEIGHTS_URL", "").replace(",", " ").split() or [url]:
        try:
            parts = urlsplit(base)
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
        except ValueError:
            is_address = False
        if not is_address:
            raise WeightsError(
                "Addresses in TUMORSIM_WEIGHTS_URL must be http:// or https:// and a server, such as "
                f"https://host/folder. Got '{re.sub('//.*@', '//', base)}'. "
                "A file from elsewhere can be put into the cache by hand: see 'tumorsim weights path'."
            )
        auth = get_auth_from_url(base)
        mirrors.append((urldefragauth(base), auth if any(auth) else None))  # messages show the address
    return mirrors


class _Failed(Exception):
    """Why a download failed, where a retry would not help: pooch tries again only after a `ValueError`."""


class _Limited:
    """A file to write to that refuses more bytes than are expected, whatever a server sends."""

    def __init__(self, file, size):
        self._file, self._size, self._left = file, size, size

    def write(self, chunk):
        """Write, or raise if there is too much."""
        self._left -= len(chunk)
        if self._left < 0:
            raise _Failed(f"sent more than the {self._size} bytes that were expected")
        return self._file.write(chunk)

    def flush(self):
        """Flush."""
        self._file.flush()


def _downloader(weights, auth, progress):
    """Return a downloader for pooch, which calls it again after a `ValueError`, but not after `_Failed`."""
    import pooch
    from tqdm import tqdm

    def get(url, path, pup):
        bar = tqdm(total=weights.size, desc=weights.file, unit="B", unit_scale=True, disable=not progress)
        with bar, open(path, "wb") as file:
            transfer = pooch.HTTPDownloader(progressbar=bar, chunk_size=2**15, timeout=_TIMEOUT, auth=auth)
            try:
                transfer(url, _Limited(file, weights.size), pup)
            except (OSError, ValueError) as err:  # all errors of requests are an OSError
                if getattr(err, "errno", None) is not None:  # the disk's
                    raise
                raise _failure(err) from err
        size = os.path.getsize(path)
        if size < weights.size:
            raise ValueError(f"sent {size} of {weights.size} bytes")

    return get


def _failure(err):
    """Return why a request failed as an exception: `ValueError` if a retry may help, else `_Failed`."""
    from requests import exceptions

    if isinstance(err, exceptions.HTTPError):
        response = err.response
        passes = response.status_code in (429, 500, 502, 503, 504)
        return (ValueError if passes else _Failed)(f"HTTP {response.status_code} {response.reason}")
    if isinstance(err, exceptions.SSLError):
        if "CERTIFICATE_VERIFY" not in str(err):
            return _Failed("it does not answer in TLS; is it an http:// address?")
        return _Failed(
            "its certificate is not trusted; REQUESTS_CA_BUNDLE can name a file of CA certificates"
        )
    if isinstance(err, exceptions.ProxyError):
        return _Failed("the proxy of HTTP_PROXY or HTTPS_PROXY cannot be used")
    if isinstance(err, exceptions.ConnectTimeout):
        return _Failed(f"no connection within {_TIMEOUT[0]} s")
    if isinstance(err, exceptions.Timeout):
        return ValueError(f"no answer for {_TIMEOUT[1]} s")
    if isinstance(err, exceptions.ChunkedEncodingError):
        return ValueError("the connection broke off midway")
    if isinstance(err, exceptions.ConnectionError):
        return ValueError("no connection")
    if isinstance(err, ValueError):  # requests' InvalidURL is one, too
        return _Failed("not a valid address")
    if isinstance(err, exceptions.RequestException):
        return _Failed(type(err).__name__)
    return _Failed(f"{err}; REQUESTS_CA_BUNDLE must name a file of CA certificates")  # an OSError of requests
