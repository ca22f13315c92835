"""Servers on loopback that deliver weights well, badly or not at all, and a proxy."""

import contextlib
import http.server
import threading


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers a request as the server's `answers` say for the first part of the path."""

    def do_GET(self):
        """Write down the path and hand over to the answer."""
        self.server.requests.append(self.path)
        path = self.path.removeprefix(f"http://{self.headers['Host']}")  # a proxy gets the whole URL
        self.server.answers[path.strip("/").split("/")[0]](self)

    def log_message(self, *args):
        """Say nothing."""


def deliver(content, *, promised=None):
    """Return an answer with these bytes; `promised` is the Content-Length if it is another."""

    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content) if promised is None else promised))
        handler.end_headers()
        with contextlib.suppress(ConnectionError):  # a reader that has had enough hangs up
            handler.wfile.write(content)
        handler.close_connection = True

    return answer


def refuse(status):
    """Return an answer of an error."""
    return lambda handler: handler.send_error(status)


def in_turn(*answers):
    """Return an answer that gives one after the other, the last for ever."""
    rest = list(answers)

    def answer(handler):
        (rest.pop(0) if len(rest) > 1 else rest[0])(handler)

    return answer


@contextlib.contextmanager
def serving(answers, *, tls=None):
    """Run a server while the block runs; yields it with `url` and the list `requests`."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.answers, server.requests = answers, []
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
