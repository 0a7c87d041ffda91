"""Reading from a server that drops, stalls, lies, ignores ranges, answers with errors or with a web page."""

import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from photochrom.pipelines.http import Download, RemoteFile

DATA = np.random.default_rng(0).bytes(300_000)
QUICK = {"pauses": (0.01, 0.01), "timeout": 0.3}


class Server(ThreadingHTTPServer):
    """Serves `data`; `faults` are taken one per request, and the server is well when none is left."""

    daemon_threads = True
    data = DATA
    ranges = True
    kind = "application/octet-stream"
    etag = "one"
    length: int | None = len(DATA)

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: list[Any] = []
        self.requests: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/a.tar.gz"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        server.requests.append(self.headers.get("Range"))
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
        else:
            self.send_response(200)
        self.send_header("Content-Type", server.kind)
        self.send_header("ETag", server.etag)
        if server.length is not None:
            self.send_header("Content-Length", str(stop - start + server.length - len(server.data)))
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


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def read(server: Server, **settings: Any) -> bytes:
    with io.BufferedReader(Download(server.url, **{**QUICK, **settings}), 10_000) as file:
        return file.read()


def test_a_sound_server_is_asked_once(server: Server) -> None:
    assert read(server) == DATA
    assert server.requests == [None]


@pytest.mark.parametrize("fault", ["drop", "stall", 500, 503, 429])
def test_passing_failures_are_got_over(server: Server, fault: Any) -> None:
    server.faults = [fault, fault]
    assert read(server) == DATA
    assert len(server.requests) == 3
    if isinstance(fault, str):
        assert server.requests[1] == "bytes=100000-"


def test_many_drops_are_got_over_as_long_as_each_brings_something(server: Server) -> None:
    server.faults = ["drop"] * 12
    assert read(server) == DATA


def test_a_server_that_ignores_ranges_sends_it_all_again(server: Server) -> None:
    server.ranges = False
    server.faults = ["drop"]
    assert read(server) == DATA
    assert server.requests == [None, "bytes=100000-"]


def test_reading_can_begin_in_the_middle_and_at_the_end(server: Server) -> None:
    assert read(server, start=1234) == DATA[1234:]
    assert server.requests == ["bytes=1234-"]
    assert read(server, start=len(DATA)) == b""


@pytest.mark.parametrize(
    ("ranges", "sentence"),
    [
        (True, r"has no byte after the first 300,000, where 301,000 were expected"),
        (False, r"gives no more after 300,000 of 301,000 bytes, 3 attempts"),
    ],
)
def test_a_length_that_is_a_lie_comes_to_an_end(server: Server, ranges: bool, sentence: str) -> None:
    server.length, server.ranges = len(DATA) + 1000, ranges
    with pytest.raises(ValueError, match=sentence):
        read(server)
    assert len(server.requests) <= 4


def test_no_length_at_all(server: Server) -> None:
    server.length = None
    assert read(server) == DATA


@pytest.mark.parametrize("code", [404, 403, 410])
def test_refusals_are_said_at_once(server: Server, code: int) -> None:
    server.faults = [code] * 9
    with pytest.raises(ValueError, match=f"a.tar.gz answers {code}"):
        read(server)
    assert len(server.requests) == 1


def test_a_server_that_stays_ill_is_left(server: Server) -> None:
    server.faults = [503] * 9
    with pytest.raises(ValueError, match="gives no more after 0 bytes, 3 attempts"):
        read(server)
    assert len(server.requests) == 3


def test_a_web_page_is_no_archive(server: Server) -> None:
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(ValueError, match="answers with a web page, not with an archive"):
        read(server)


def test_two_versions_are_not_mixed(server: Server) -> None:
    server.faults = ["drop"]
    file = Download(server.url, **QUICK)
    file.read(10)
    server.etag = "two"
    with pytest.raises(ValueError, match="has changed while it was read"):
        io.BufferedReader(file, 10_000).read()


def test_nobody_at_home() -> None:
    with pytest.raises(ValueError, match=r"127.0.0.1:9/x gives no more after 0 bytes, 3 attempts \(.*refused"):
        Download("http://127.0.0.1:9/x", **QUICK)


def test_any_part_of_a_remote_zip_can_be_read(server: Server) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", DATA)
        archive.writestr("b", b"short")
    server.data = buffer.getvalue()
    server.length = len(server.data)
    with zipfile.ZipFile(io.BufferedReader(RemoteFile(server.url), 1000)) as archive:
        assert archive.read("b") == b"short"
        assert archive.read("a") == DATA


def test_a_remote_zip_needs_ranges(server: Server) -> None:
    server.ranges = False
    with pytest.raises(ValueError, match="serves no parts of files, which a zip needs"):
        RemoteFile(server.url).read(10)
