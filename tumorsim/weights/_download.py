"""One file from the first mirror that delivers it, by HTTP or HTTPS."""

import time
from pathlib import Path

from tumorsim.exceptions import WeightsError
from tumorsim.io import content_key

__all__ = ["download", "without_password"]

_TIMEOUT = (10, 30)  # seconds to connect, seconds without a byte
_PAUSES = (0.3, 0.9)  # seconds before a mirror is asked again
_BUSY = (429, 500, 502, 503, 504)
_CHUNK = 2**15


def download(urls, path, weights, target, *, progress=False):
    """Write the file of `weights` to `path` from the first of `urls` that has it whole.

    Proxies (``HTTPS_PROXY`` …) and CA bundles (``REQUESTS_CA_BUNDLE``) are taken from the environment.

    Parameters
    ----------
    urls : list of str
    path : Path
        Is overwritten.
    weights : Weights
        What the file must be.
    target : Path
        Where the file can be put by hand; only the error names it.
    progress : bool, default=False

    Raises
    ------
    WeightsError
        If no URL delivers; it lists each with its reason.
    """
    reasons = []
    for url in urls:
        for pause in (*_PAUSES, None):
            reason, again = _attempt(url, path, weights, progress)
            if reason is None:
                return
            if not again or pause is None:
                break
            time.sleep(pause)
        reasons.append(f"  {without_password(url)}: {reason}")
    raise WeightsError(
        f"Weights '{weights.name}' could not be downloaded:\n" + "\n".join(reasons) + "\n"
        "Set TUMORSIM_WEIGHTS_URL to a folder on a server that has the file (several: separated by commas), "
        f"or put the file at '{target}' by hand ({weights.size} bytes, SHA-256 {weights.sha256})."
    )


class _Limited:
    """A file to write to that refuses more bytes than are expected, whatever a server sends."""

    def __init__(self, file, limit):
        self._file, self._left = file, limit

    def write(self, chunk):
        """Write, or raise once there is too much."""
        self._left -= len(chunk)
        if self._left < 0:
            raise _TooLong
        return self._file.write(chunk)

    def flush(self):
        """Flush."""
        self._file.flush()


class _TooLong(Exception):
    """More bytes came than the file has."""


def _attempt(url, path, weights, progress):
    """Ask once; return (None, False), or the reason of the failure and whether asking again may help."""
    import pooch
    import requests
    from tqdm import tqdm

    bar = None
    if progress:
        bar = tqdm(total=weights.size, desc=weights.file, unit="B", unit_scale=True)
    try:
        with open(path, "wb") as file:
            get = pooch.HTTPDownloader(progressbar=bar or False, chunk_size=_CHUNK, timeout=_TIMEOUT)
            get(url, _Limited(file, weights.size), None)
    except _TooLong:
        return f"sent more than the {weights.size} bytes that were expected", False
    except (requests.RequestException, ValueError) as err:  # ValueError: an address that cannot be one
        return _reason(err)
    except OSError as err:
        if err.errno is not None:  # the disk's; requests says without a number that it has no certificates
            raise
        return f"{err}; REQUESTS_CA_BUNDLE must name a file of CA certificates", False
    finally:
        if bar is not None:
            bar.close()
    size = Path(path).stat().st_size
    if size < weights.size:
        return f"sent {size} of {weights.size} bytes", True
    found = content_key(path)
    if found != weights.sha256:
        return f"sent another file: expected SHA-256 {weights.sha256}, got {found}", False
    return None, False


def _reason(err):
    """Return a failed request's reason in a few words, and whether asking again may help."""
    from requests import exceptions

    if isinstance(err, exceptions.HTTPError):
        return f"HTTP {err.response.status_code} {err.response.reason}", err.response.status_code in _BUSY
    if isinstance(err, exceptions.SSLError):
        if "CERTIFICATE_VERIFY" not in str(err):
            return "it does not answer in TLS; is it an http:// address?", False
        return "its certificate is not trusted; REQUESTS_CA_BUNDLE can name a file of CA certificates", False
    if isinstance(err, exceptions.ProxyError):
        return "the proxy of HTTP_PROXY or HTTPS_PROXY cannot be used", False
    if isinstance(err, exceptions.ConnectTimeout):
        return f"no connection within {_TIMEOUT[0]} s", False
    if isinstance(err, exceptions.Timeout):
        return f"no answer for {_TIMEOUT[1]} s", True
    if isinstance(err, exceptions.ChunkedEncodingError):
        return "the connection broke off midway", True
    if isinstance(err, exceptions.ConnectionError):
        return "no connection", True
    if isinstance(err, ValueError):  # requests' InvalidURL is one, too
        return "not an address that can be asked", False
    return type(err).__name__, False


def without_password(url):
    """Return a URL that can be shown: no user, no password.

    Examples
    --------
    >>> without_password("https://me:secret@host/folder")
    'https://host/folder'
    """
    scheme, separator, rest = url.partition("://")
    server, slash, path = rest.partition("/")
    return scheme + separator + server.rpartition("@")[2] + slash + path
