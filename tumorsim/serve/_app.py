"""Routes, who may call them, and the server that runs them."""

import contextlib
import contextvars
import json
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import warnings
import webbrowser
from functools import partial
from importlib.resources import files

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from tumorsim._validation import check_real, words_of
from tumorsim.serve._desk import Desk
from tumorsim.serve._uploads import Limits, bounded, read_files, run_apart

_OWN = {"/": "index.html"} | {f"/{name}": name for name in ("serve.js", "serve.css", "openapi.json")}
_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "json": "application/json"}
_TYPES |= {"csv": "text/csv", "seg": "application/dicom"}
_PAGE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# a sheet brings its own policy; here it gets an origin of its own, so that it cannot call the server
_SHEET = "sandbox allow-scripts; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
_HEADERS = {"Content-Security-Policy": _PAGE, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
_HEADERS["X-Content-Type-Options"] = "nosniff"
_HEADERS |= {f"Cross-Origin-{name}-Policy": "same-origin" for name in ("Opener", "Resource")}
_notes = contextvars.ContextVar("notes")


class Guard:
    """Let requests pass that come by a known name, from the page itself, with the token."""

    def __init__(self, app, token, origins):
        self.app, self.token, self.origins = app, token, origins
        self.hosts = {origin.partition("://")[2] for origin in origins}
        self.cookie = f"tumorsim_{secrets.token_hex(4)}"  # cookies do not know ports

    async def __call__(self, scope, receive, send):
        """Refuse or pass a request on; every answer gets headers that keep it in its place."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        refusal = self._refusal(request)
        host, came = request.headers.get("host"), self._same(request.query_params.get("token", ""))

        async def guarded(message):
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if came and not refusal:
                    secure = "; Secure" if f"https://{host}" in self.origins else ""
                    cookie = f"{self.cookie}={self.token}; HttpOnly; SameSite=Strict"
                    headers["Set-Cookie"] = f"{cookie}; Path=/{secure}"
            await send(message)

        app = JSONResponse({"error": refusal[1]}, refusal[0]) if refusal else self.app
        await app(scope, receive, guarded)

    def _same(self, given):
        """Tell whether a token is the server's."""
        return secrets.compare_digest(given.encode(), self.token.encode())

    def _refusal(self, request):
        """Return status and words, or None."""
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if host.lower() not in self.hosts:
            return 421, "This server does not answer to that host name. See --url."
        if origin is not None and origin.lower() not in self.origins:
            return 403, "Requests of other pages are refused."
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        link = request.query_params.get("token", "") if request.url.path == "/" else ""
        cookie = request.cookies.get(self.cookie, "")
        known = self._same(bearer)
        if not (known or self._same(link) or self._same(cookie)):
            return 401, "The token is missing or wrong. Open the link that 'tumorsim serve' printed."
        if request.method not in ("GET", "HEAD") and not known and origin is None:
            return 403, "Without an Origin a change needs the token in the header Authorization."
        return None


def _routes(desk):
    """Return the routes: JSON in, JSON or a file out. templates/serve/openapi.json describes them."""
    uploads = threading.BoundedSemaphore(desk.limits.n_uploads)

    def scan_of(request):
        return desk.held(desk.scans, request.path_params["id"])

    async def upload(request):
        limits, folder = desk.limits, desk.folder / secrets.token_hex(8)
        json_type = request.headers.get("content-type", "").startswith("application/json")
        study = await _object(request) if json_type else None
        if not uploads.acquire(blocking=False):
            if study is None:
                await read_files(request, folder, limits, keep=False)
            raise HTTPException(503, "Too many uploads at once. Try again in a moment.", {"Retry-After": "2"})
        try:
            folder.mkdir(0o700)
            if study is not None:
                return await _answered(desk.pull_scan, folder, study)
            return await _answered(desk.add_scan, folder, await read_files(request, folder, limits))
        finally:
            if folder.name not in desk.scans:
                shutil.rmtree(folder, ignore_errors=True)
            uploads.release()

    def file(request, _):
        key, kind = request.path_params["id"], request.path_params["kind"]
        if kind not in ("html", "csv", "json", "seg"):
            raise HTTPException(404, "An answer is there as html, csv, json or seg.")
        if kind == "json":
            return (asked := desk.held(desk.queries, key)).about | asked.answer.to_dict()
        policy = {"Content-Security-Policy": _SHEET} if kind == "html" else {}
        return FileResponse(desk.file(key, kind), media_type=_TYPES[kind], headers=policy)

    def picture(request, _):
        return Response(scan_of(request).picture(**_chosen(request)), media_type="image/png")

    def own(request, _):
        text = files("tumorsim").joinpath("templates", "serve", name := _OWN[request.url.path]).read_bytes()
        return Response(text, media_type=_TYPES[name.rpartition(".")[2]])

    table = {
        "GET /archive": lambda request, body: desk.describe(),
        "GET /map": lambda request, body: desk.map(request.query_params.get("task", "type")),
        "GET /scans/{id}": lambda request, body: scan_of(request).describe(),
        "DELETE /scans/{id}": lambda request, body: desk.drop_scan(request.path_params["id"]),
        "GET /scans/{id}/slice": picture,
        "GET /scans/{id}/outlines": lambda r, body: scan_of(r).outlines(**_chosen(r)),
        "POST /scans/{id}/proposals": lambda request, body: desk.propose(scan_of(request), body),
        "POST /queries": lambda request, body: desk.ask(body),
        "GET /queries": lambda request, body: desk.history(),
        "GET /queries/{id}.{kind}": file,
        "GET /tumors": lambda request, body: desk.tumors(**request.query_params),
        "POST /tumors": lambda request, body: desk.add_tumor(body),
        "GET /tumors/{id:path}": lambda request, body: desk.tumor(request.path_params["id"]),
        "DELETE /tumors/{id:path}": lambda request, body: desk.remove_tumor(request.path_params["id"]),
        "POST /undo": lambda request, body: desk.undo(),
    } | {f"GET {path}": own for path in _OWN}
    calls = {name: partial(_endpoint, one) for name, one in table.items()} | {"POST /scans": upload}
    return [Route(name.split()[1], call, methods=name.split()[:1]) for name, call in calls.items()]


async def _endpoint(function, request):
    """Return the response of `function(request, body)`, which runs in a thread."""
    return await _answered(function, request, await _object(request))


async def _object(request):
    """Return the JSON object of a request's body."""
    try:
        return {**json.loads(await bounded(request, 100_000).body() or "{}")}
    except (TypeError, ValueError, RecursionError) as err:
        raise HTTPException(400, "The body of a request must be a JSON object.") from err


async def _answered(function, *args):
    """Return the response of a function: its errors and warnings are for the person, not for a log."""
    _notes.set(notes := [])
    try:
        result = await run_in_threadpool(function, *args)
    except HTTPException:
        raise
    except Exception as err:
        mendable, text = words_of(err)
        text = text if mendable else f"Internal error: {type(err).__name__}."
        raise HTTPException(422 if mendable else 500, text) from err
    if isinstance(result, Response):
        return result
    if isinstance(result, dict) and notes:
        result["notes"] = [*result.get("notes", ()), *dict.fromkeys(notes)]
    return Response(json.dumps(result, default=str), media_type="application/json")


def _chosen(request):
    """Return parameters of the address; plane and number must be there."""
    try:
        given = dict(request.query_params)
        plane, number = given.pop("plane"), int(given.pop("number"))
        window = {name: check_real(float(given.pop(name)), name) for name in ("low", "high") if name in given}
        if given:
            raise ValueError
        return {"plane": plane, "number": number} | window
    except (KeyError, ValueError) as err:
        raise HTTPException(400, "A slice has 'plane' and 'number', and may have 'low' and 'high'.") from err


def make_app(desk, token, origins):
    """Return the ASGI application of a `Desk`; `origins` are those that browsers may use."""

    def words(request, err):
        status = 200 if "x-tumorsim-page" in request.headers else err.status_code  # browsers log others
        return JSONResponse({"error": err.detail}, status, err.headers)

    app = Starlette(routes=_routes(desk), exception_handlers={HTTPException: words})
    app.router.redirect_slashes = False
    return Guard(app, token, frozenset(origin.lower() for origin in origins))


def serve(
    directory, embedder, *, host="127.0.0.1", port=0, token=None, url=None, browser=True, echo=print, **desk
):
    """Serve a page on an index until the process is interrupted.

    Parameters
    ----------
    directory, embedder : path, TumorEmbedder
        The index, and the model whose embeddings it holds.
    host, port : str, int
        Interface, and port; 0 takes a free one.
    token : str, optional
        Secret of at least 16 characters, needed for another interface than loopback. Default: at random.
    url : str, optional
        Address that browsers use, where a proxy is in front, such as ``"https://tumorsim.example"``.
    browser, echo : bool, callable
        Whether to open the page; what receives the link.
    **desk
        ``limits`` (`Limits`), ``key_file`` (of the archive's DICOM import), ``model_name``, and ``dicomweb``,
        the address of a server that studies are pulled from, such as ``"https://pacs.example/dicom-web"``.

    Raises
    ------
    OSError, ValueError
        If the port is taken, the index cannot be used, or a token or an address is missing.
    """
    local = host in ("127.0.0.1", "localhost", "::1")
    if (not local and token is None) or (token is not None and len(token) < 16):
        raise ValueError(f"Interface {host} needs a token (--token) of at least 16 characters.")
    if host in ("0.0.0.0", "::") and url is None:
        raise ValueError(f"Of interface {host} give the address that browsers use too (--url).")
    token = token or secrets.token_urlsafe(24)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the private folder goes too
    with tempfile.TemporaryDirectory(prefix="tumorsim-") as folder, contextlib.ExitStack() as stack:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = stack.enter_context(socket.create_server((host, port), family=family))
        names = [f"[{host}]" if ":" in host else host, *(["127.0.0.1", "localhost"] if local else [])]
        origins = [f"http://{name}:{listener.getsockname()[1]}" for name in names]
        origins += [url.rstrip("/")] if url else []
        app = make_app(Desk(directory, embedder, folder, **desk), token, origins)
        options = {"log_level": "error", "access_log": False, "ws": "none", "proxy_headers": False}
        options |= {"server_header": False, "limit_concurrency": 200, "timeout_graceful_shutdown": 3}
        run_apart(bool, limits=Limits())  # the first of these processes takes seconds to start
        link = f"{origins[-1 if url else 0]}/?token={token}"
        echo(f"Open {link}\nStop with Ctrl+C. Research use only; not for diagnosis or treatment.")
        if browser:
            webbrowser.open(link)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *about, **more: _notes.get([]).append(str(message))
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(uvicorn.Config(app, **options)).run(sockets=[listener])
