"""A Hub on this machine that fails: in a chosen way, to every request."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAILURES = ("drops", "is silent", "401", "404", "429", "500", "is no json", "is closed")


@contextlib.contextmanager
def failing(way: str) -> Iterator[str]:
    """Yield the address of a Hub that fails in one of the `FAILURES`."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if way == "drops":
                self.connection.shutdown(socket.SHUT_RDWR)
            elif way == "is silent":
                over.wait(60)
            else:
                status = int(way) if way.isdigit() else 200
                self.send_response(status)
                self.send_header("Content-Length", "5")
                self.end_headers()
                self.wfile.write(b"no :(")

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *given: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    if way == "is closed":
        server.shutdown()
        server.server_close()
    try:
        yield address
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()
