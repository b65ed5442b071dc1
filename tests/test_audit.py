"""The audit of versions, by a stand-in for the service that knows their holes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import audit
import pytest


class Service(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
        answers = [
            {"vulns": [{"id": "GHSA-1"}]} if query["package"]["name"] == "dask" else {}
            for query in asked
        ]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"results": answers}).encode())

    def log_message(self, *given: object) -> None:
        pass


def _run(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(Path(audit.__file__)), *options],
        capture_output=True, text=True, env={"OSV_URL": url}, timeout=60,
    )  # fmt: skip


def test_holes_are_told_and_strict_fails() -> None:
    server = HTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        plain, strict = _run(url), _run(url, "--strict")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert (plain.returncode, strict.returncode) == (0, 1)
    (line,) = plain.stdout.splitlines()[1:]
    assert line.startswith("  dask 20")
    assert line.endswith(": GHSA-1")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nowhere://"])
def test_without_an_answer_it_is_skipped(url: str) -> None:
    done = _run(url)
    assert done.returncode == 0
    assert done.stdout.startswith(f"audit: skipped, {url} gives no answer")


def test_pins_are_read() -> None:
    text = "# a comment\nnumpy==2.3.1\ntorch==2.13.0+cpu ; sys_platform == 'linux'\n-e .\n"
    assert audit.pinned(text) == [("numpy", "2.3.1"), ("torch", "2.13.0")]
