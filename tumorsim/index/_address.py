"""Where a Milvus is: a file, or a server that the user has named; and which token goes there."""

import ipaddress
import os
from urllib.parse import urlsplit

from tumorsim._validation import check_text, printable
from tumorsim.exceptions import IndexMismatchError

URI, TOKEN = "TUMORSIM_MILVUS_URI", "TUMORSIM_MILVUS_TOKEN"  # environment: the user's server, and its token
PORTS = {"https": 443, "http": 19530, "tcp": 19530}  # the default ones of pymilvus


def is_file(uri):
    """Tell whether an address is a file of this machine, as pymilvus does by its suffix."""
    return uri.endswith(".db") and "://" not in uri and not uri.replace("\\", "/").startswith("//")


def allowed_uri(uri, given, what):
    """Return the address of an index read from `what`: `given`, or its own where it is no new server."""
    if given is not None:
        return given
    if is_file(check_text(uri, "uri")) or _server(uri) == _own_server():
        return uri
    rule = f"{what} names the Milvus server {printable(uri)!r}, and a file may not choose where to connect."
    remedy = f"give uri={printable(uri)!r} to TumorIndex.load, or set {URI} to it."
    raise IndexMismatchError(f"{rule} If that server is yours, {remedy}")


def token_for(uri):
    """Return the token for an address: that of the environment, if it belongs to this server."""
    server, token = None if is_file(uri) else _server(uri), os.environ.get(TOKEN)
    if server is None or not token:
        return ""
    if _own_server() is None:
        raise ValueError(f"A token belongs to one server. Set {URI} to the address that {TOKEN} is for.")
    if server != _own_server():
        return ""
    if server[0] != "https" and not _is_loopback(server[1]):
        raise ValueError(f"The token of {TOKEN} is only sent by https. Got {uri!r}.")
    return token


def _own_server():
    """Return the server that the user has named in the environment, or None."""
    return _server(os.environ[URI]) if os.environ.get(URI) else None


def _server(uri):
    """Return scheme, host and port of a server's address."""
    rule = "'uri' must be a file such as 'archive.db', or a server such as 'https://host:19530'."
    try:
        parts = urlsplit(uri)
        server = parts.scheme, parts.hostname, parts.port or PORTS[parts.scheme]
    except (KeyError, ValueError) as err:
        raise ValueError(f"{rule} Got {printable(uri)!r}.") from err
    if not parts.hostname or "@" in parts.netloc:
        raise ValueError(f"{rule} It has a host, and no password: set {TOKEN} for that.")
    return server


def _is_loopback(host):
    """Tell whether a host is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False
