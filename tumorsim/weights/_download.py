"""One file from the first server that delivers it whole; pooch checks its hash and retries."""

import contextlib
import logging
import os
import re
import shutil
import sys
import tempfile
from functools import partial
from urllib.parse import urlsplit

import pooch
import requests
from requests import exceptions
from requests.utils import get_auth_from_url, urldefragauth
from tqdm import tqdm

from tumorsim.exceptions import WeightsError
from tumorsim.io import atomic_path, locked, remove_leftovers

_TIMEOUT = (10, 30)  # seconds to connect, seconds without a byte
_RETRIES = 2
_LOCK_SECONDS = 900


def download(weights, target, url, *, progress=False):
    """Write a file of weights to `target`, atomically, from the first mirror that has it.

    Mirrors are the folders in ``TUMORSIM_WEIGHTS_URL``, or else `url`; a `WeightsError` says why each failed.
    """
    for handler in pooch.get_logger().handlers:  # pooch keeps the stderr of its import, closed by now perhaps
        if type(handler) is logging.StreamHandler:
            handler.stream = sys.stderr
    reasons = []
    with tempfile.TemporaryDirectory(prefix="tumorsim-") as folder:
        for address, auth in _mirrors(url):
            known = {weights.file: weights.sha256}
            files = pooch.create(folder, address, registry=known, retry_if_failed=_RETRIES)
            try:
                get = partial(_get, weights=weights, auth=auth, progress=progress)
                path = files.fetch(weights.file, downloader=get)
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
def alone(target):
    """Let one process at a time download `target`; where locks do not work, several may: moves are atomic."""
    busy = WeightsError(
        f"Another process has been downloading '{target}' for {_LOCK_SECONDS} s. "
        "Wait until it has finished, or end it, and try again."
    )
    with locked(target.with_name(f".{target.name}.lock"), busy, seconds=_LOCK_SECONDS):
        remove_leftovers(target)
        yield


def _mirrors(url):
    """Return (address, None or (user, password)) of each mirror in the order in which they are tried."""
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


def _get(url, path, _, *, weights, auth, progress):
    """Download a file for pooch, which calls this again after a `ValueError`, but not after `_Failed`."""
    bar = tqdm(total=weights.size, desc=weights.file, unit="B", unit_scale=True, disable=not progress)
    with bar, open(path, "wb") as file:
        try:
            with requests.get(url, stream=True, timeout=_TIMEOUT, auth=auth) as response:
                response.raise_for_status()
                for chunk in response.iter_content(2**15):
                    file.write(chunk)
                    bar.update(len(chunk))
                    if file.tell() > weights.size:  # whatever a server sends
                        raise _Failed(f"sent more than the {weights.size} bytes that were expected")
        except (OSError, ValueError) as err:  # all errors of requests are an OSError
            if getattr(err, "errno", None) is not None:  # the disk's
                raise OSError(err.errno, err.strerror, path) from err
            raise _failure(err) from err
        if file.tell() < weights.size:
            raise ValueError(f"sent {file.tell()} of {weights.size} bytes")


def _failure(err):
    """Return why a request failed as an exception: `ValueError` if a retry may help, else `_Failed`."""
    if isinstance(err, exceptions.HTTPError):
        response = err.response
        passes = response.status_code in (429, 500, 502, 503, 504)
        return (ValueError if passes else _Failed)(f"HTTP {response.status_code} {response.reason}")
    bundle = "name a file of CA certificates"
    if isinstance(err, exceptions.SSLError):
        if "CERTIFICATE_VERIFY" not in str(err):
            return _Failed("it does not answer in TLS; is it an http:// address?")
        return _Failed(f"its certificate is not trusted; REQUESTS_CA_BUNDLE can {bundle}")
    kinds = (  # the first that fits
        (exceptions.ProxyError, _Failed, "the proxy of HTTP_PROXY or HTTPS_PROXY cannot be used"),
        (exceptions.ConnectTimeout, _Failed, f"no connection within {_TIMEOUT[0]} s"),
        (exceptions.Timeout, ValueError, f"no answer for {_TIMEOUT[1]} s"),
        (exceptions.ChunkedEncodingError, ValueError, "the connection broke off midway"),
        (exceptions.ConnectionError, ValueError, "no connection"),
        (ValueError, _Failed, "not a valid address"),  # requests' InvalidURL is one, too
        (exceptions.RequestException, _Failed, type(err).__name__),
        (OSError, _Failed, f"{err}; REQUESTS_CA_BUNDLE must {bundle}"),  # the bundle is not there
    )
    return next(raised(reason) for kind, raised, reason in kinds if isinstance(err, kind))
