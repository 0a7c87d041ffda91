"""Clients that send or read slowly, and too many of them."""

import asyncio
import errno
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from photochrom.engine.serving import connections
from photochrom.engine.serving.connections import Server

HALF = b"GET / HTTP/1.1\r\nHost: "
GET = b"GET /%d HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body, and responds as many bytes as the path says, with the size of the body's largest piece."""
    size, largest, message = int(scope["path"][1:] or 0), 0, {"more_body": True}
    while message.get("more_body"):
        message = await receive()
        largest = max(largest, len(message.get("body", b"")))
    headers = [(b"content-length", str(size).encode()), (b"x-largest", str(largest).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": bytes(size)})


@contextmanager
def serving() -> Iterator[tuple[str, int]]:
    server = Server(app)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield listener.getsockname()
        finally:
            server.should_exit = True
            thread.join()


def connect(address: tuple[str, int], data: bytes) -> socket.socket:
    client = socket.create_connection(address, timeout=10)
    client.sendall(data)
    return client


def get(address: tuple[str, int], size: int = 0) -> int:
    return requests.get("http://{}:{}/{}".format(*address, size), timeout=10).status_code


def receive(client: socket.socket) -> int:
    """Returns the number of bytes until the end of the connection."""
    size = 0
    with suppress(ConnectionError):
        while piece := client.recv(1 << 20):
            size += len(piece)
    return size


@pytest.fixture
def few_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the next server descriptors for 4 to 8 connections."""
    number = len(os.listdir("/proc/self/fd")) + connections._SPARE_DESCRIPTORS + 8
    monkeypatch.setattr(connections, "resource", SimpleNamespace(RLIMIT_NOFILE=7, getrlimit=lambda _: (number, number)))


@pytest.mark.usefixtures("few_descriptors")
def test_half_sent_requests_make_room_for_others() -> None:
    with serving() as address:
        upload = connect(address, b"POST /0 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n1")
        time.sleep(0.1)
        half = [connect(address, HALF) for _ in range(40)]
        assert [get(address) for _ in range(3)] == [200, 200, 200]
        assert receive(half[0]) == 0
        half[-1].sendall(b"localhost\r\n\r\n")
        assert half[-1].recv(99).startswith(b"HTTP/1.1 200")
        upload.sendall(b"2")  # a request that is on its way stays as long as there are others
        assert upload.recv(99).startswith(b"HTTP/1.1 200")
        uploads = [
            connect(address, b"POST /0 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n1") for _ in range(40)
        ]
        assert [get(address) for _ in range(3)] == [200, 200, 200]
        for client in (upload, *half, *uploads):
            client.close()


@pytest.mark.usefixtures("few_descriptors")
def test_connections_in_use_are_not_closed_for_others() -> None:
    with serving() as address:
        readers = []
        while get(address) == 200 and len(readers) < 20:
            readers.append(connect(address, GET % (1 << 24)))
            time.sleep(0.1)
        assert 3 < len(readers) < 20
        assert get(address) == 503
        assert all(receive(reader) > 1 << 24 for reader in readers)


def test_bodies_are_read_in_small_pieces() -> None:
    """asyncio's 256 KiB would be 43,000 chunks of a byte, which take seconds in one turn of the loop."""
    with serving() as address:
        response = requests.post("http://{}:{}/0".format(*address), data=bytes(1 << 22), timeout=10)
        assert int(response.headers["X-Largest"]) <= 1 << 16


def test_an_installed_uvloop_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its transports take no attributes, and every connection would fail."""
    monkeypatch.setitem(sys.modules, "uvloop", SimpleNamespace(new_event_loop=None, Loop=None))
    factory = Server(app).config.get_loop_factory()
    assert factory is not None
    with closing(factory()) as loop:
        assert isinstance(loop, asyncio.BaseEventLoop)


def test_headers_have_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_HEADER_SECONDS", 0.4)
    with serving() as address, closing(connect(address, HALF)) as client, closing(connect(address, b"")) as silent:
        start = time.monotonic()
        again = connect(address, b"GET /0 HTTP/1.1\r\nHost: localhost\r\n\r\n" + HALF)  # after a response, too
        with suppress(ConnectionError):
            for _ in range(100):
                client.sendall(b"x")
                time.sleep(0.05)
        assert receive(silent) == 0
        assert receive(again) > 0
        assert 0.3 < time.monotonic() - start < 3


def test_responses_that_nobody_reads_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "GRACE_SECONDS", 0.5)
    monkeypatch.setattr(connections, "MIN_RATE", 1 << 20)
    with serving() as address, closing(connect(address, GET % (1 << 26))) as lazy:
        with closing(connect(address, GET % (1 << 24))) as slow:  # 16 MB at 4 MB/s
            size = 0
            while size < 1 << 24:
                size += len(slow.recv(1 << 18))
                time.sleep(0.05)
        assert receive(lazy) < 1 << 26


def test_the_oldest_response_is_dropped_when_too_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_MAX_UNSENT", 3 << 24)
    with serving() as address:
        clients = []
        for _ in range(4):
            clients.append(connect(address, GET % (1 << 24)))
            time.sleep(0.2)
        sizes = [receive(client) for client in clients]
        assert [size > 1 << 24 for size in sizes] == [False, True, True, True]


def test_a_response_larger_than_the_limit_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_MAX_UNSENT", 1 << 20)
    with serving() as address, closing(connect(address, GET % (1 << 25))) as client:
        time.sleep(0.5)
        assert receive(client) > 1 << 25


def test_errors_that_repeat_are_printed_once_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    server, others = Server(app), []
    loop: Any = SimpleNamespace(default_exception_handler=others.append)
    for _ in range(1000):
        server._report(loop, {"message": "accept", "exception": OSError(errno.EMFILE, "Too many open files")})
    sentence = "a connection cannot be accepted (Too many open files): raise the limit of 'ulimit -n'\n"
    assert capsys.readouterr().err == sentence
    server._report(loop, {"message": "another", "exception": KeyError(1)})
    assert [context["message"] for context in others] == ["another"]
