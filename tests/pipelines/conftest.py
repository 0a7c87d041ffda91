"""A server that drops, stalls, lies, ignores ranges, answers with errors or with a web page."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


class Server(ThreadingHTTPServer):
    """Serves `data`; `faults` are taken one per request, and the server is well when none is left."""

    daemon_threads = True
    data = np.random.default_rng(0).bytes(300_000)
    ranges = True
    kind = "application/octet-stream"
    etag = "one"
    more: int | None = 0  # bytes that are announced and not sent; None announces nothing

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: list[Any] = []
        self.requests: list[str | None] = []
        self.asked: list[tuple[str, str | None]] = []  # path and login of each request

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/a.tar.gz"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        server.requests.append(self.headers.get("Range"))
        server.asked.append((self.path, self.headers.get("Authorization")))
        if self.path.startswith("/elsewhere"):
            self.send_response(302)
            self.send_header("Location", "/a.tar")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        fault = server.faults.pop(0) if server.faults else None
        if isinstance(fault, int) and fault >= 400:
            self.send_error(fault)
            return
        start, stop = 0, len(server.data)
        wanted = self.headers.get("Range")
        if wanted and server.ranges:
            first, last = wanted.removeprefix("bytes=").split("-")
            start, stop = int(first), int(last) + 1 if last else stop
            if start >= len(server.data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(server.data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(server.data) + (server.more or 0)}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", server.kind)
        self.send_header("ETag", server.etag)
        if server.more is not None:
            self.send_header("Content-Length", str(stop - start + server.more))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        body = server.data[start:stop]
        if fault == "drop":
            self.wfile.write(body[: len(body) // 3])
        elif fault == "stall":
            self.wfile.write(body[: len(body) // 3])
            self.wfile.flush()
            threading.Event().wait(1)
        else:
            self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="session")
def coffee(photos: Path) -> Image.Image:
    return Image.open(photos / "coffee.png").convert("RGB")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
