"""`photochrom serve`: a real server, used by programs and by a real browser."""

import asyncio
import io
import os
import re
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import photochrom
import psutil
import pytest
import requests
import torch
from photochrom.engine.cli import main
from photochrom.engine.serving.app import ColorizeApp
from photochrom.engine.serving.batching import MAX_INPUT_PIXELS, input_pixels
from photochrom.engine.serving.connections import Server
from photochrom.engine.serving.decoding import ImageHeader
from photochrom.engine.serving.origin_check import OriginCheck
from photochrom.engine.serving.requests import ServedModel
from PIL import Image
from starlette.responses import PlainTextResponse

MEGABYTES = 8  # the limit of the fixture `server`


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pixels_of(response: Any) -> np.ndarray:
    assert response.status_code == 200, response.text
    return np.array(Image.open(io.BytesIO(response.content)))


def test_fifty_clients_at_once_get_the_results_of_colorize(server: Any, models: list[Path], photos: Path) -> None:
    images = [np.array(Image.open(path).convert("RGB").resize((160, 128))) for path in sorted(photos.rglob("*.*"))]
    images += [image[:, :100] for image in images]
    cases = [(images[i % len(images)], ("warm", "cold")[i % 2], ("", "48", "native")[i % 3]) for i in range(50)]
    barrier = threading.Barrier(50)

    def ask(case: tuple[np.ndarray, str, str]) -> Any:
        image, model, size = case
        barrier.wait()
        return server.post(png(image), model=model, size=size)

    with ThreadPoolExecutor(50) as pool:
        responses = list(pool.map(ask, cases))
    loaded = {path.name: photochrom.load(path) for path in models}
    for (image, model, size), response in zip(cases, responses, strict=True):
        expected = loaded[model].colorize(image, {"": None, "48": 48}.get(size, "native"))
        # A batch is summed up in another order than a single image, which now and then makes a bit of difference, and
        # where a colour is at the edge of what exists decides whether it is taken to exist.
        off = np.abs(pixels_of(response).astype(int) - expected)
        assert off.max() <= 3
        assert (off > 0).mean() < 1e-3
    warm, cold = (model.colorize(images[0]).astype(int) for model in loaded.values())
    assert np.abs(warm - cold).mean() > 5  # or the wrong one could not be told


def bomb() -> bytes:
    """Returns a GIF whose header claims 60000 x 60000 pixels."""
    file = io.BytesIO()
    Image.new("L", (64, 64)).save(file, "GIF")
    data = bytearray(file.getvalue())
    data[6:10] = struct.pack("<HH", 60000, 60000)
    return bytes(data)


def broken(photos: Path) -> dict[str, tuple[bytes, int, str]]:
    jpeg = (photos / "rocket.jpg").read_bytes()
    return {
        "empty": (b"", 422, "the image cannot be read: empty file"),
        "text": (b"no photograph at all\n" * 99, 415, "the file is not an image of a known format: JPEG, PNG"),
        "page": (b"<!doctype html><title>404</title>", 415, "the file is not an image"),
        "postscript": (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n",
            415,
            "the file is not an image",
        ),
        "cut": (jpeg[: len(jpeg) // 2], 422, "the image cannot be read: damaged JPEG"),
        "cut PNG": ((photos / "coffee.png").read_bytes()[:-40_000], 422, "the image cannot be read: damaged"),
        "bomb": (bomb(), 413, "the image"),
        "large": (png(np.zeros((2000, 2001), np.uint8)), 413, "2001 x 2000 pixels; the limit is 4 megapixels"),
        "small": (png(np.zeros((31, 90), np.uint8)), 422, "90 x 31 pixels; each side needs at least 32"),
        "heavy": (bytes(MEGABYTES * 10**6 + 1), 413, "the file is larger than the limit of 8 MB"),
    }


@pytest.mark.parametrize(
    "kind", ["empty", "text", "page", "postscript", "cut", "cut PNG", "bomb", "large", "small", "heavy"]
)
def test_broken_uploads(server: Any, photos: Path, kind: str) -> None:
    data, status, sentence = broken(photos)[kind]
    response = server.post(data)
    assert (response.status_code, list(response.json())) == (status, ["detail"])
    assert sentence in response.json()["detail"]
    assert "\n" not in response.json()["detail"]


@pytest.mark.parametrize("announced", [True, False])
def test_a_large_body_is_not_kept_in_memory(server: Any, announced: bool) -> None:
    """200 MB, with a Content-Length and without one."""
    process = psutil.Process(server.process.pid)
    before, most = process.memory_info().rss, 0

    class Body(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            nonlocal most
            most = max(most, process.memory_info().rss)
            return super().read(size)

    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
    body = Body(head + bytes(200 * 10**6))
    data = body if announced else iter(lambda: body.read(10**6), b"")
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    response = requests.post(f"{server.url}/colorize", data=data, headers=headers, timeout=60)
    assert ("Content-Length" in response.request.headers) == announced
    assert (response.status_code, response.json()["detail"][:23]) == (413, "the file is larger than")
    assert most - before < 60e6


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"model": "hot"}, "there is no model 'hot'; the models are warm, cold"),
        ({"size": "7"}, "size='7' is neither a number of pixels from 8 to 65536 nor 'native'"),
        ({"size": "9" * 400}, "size='999999999999...9999999999999' is neither"),
        ({"format": "bmp"}, "format='bmp' is neither 'png' nor 'jpeg'"),
        ({"model": "x" * 2000}, "the form cannot be parsed: Part exceeded maximum size"),
    ],
)
def test_invalid_parameters(server: Any, fields: dict[str, str], sentence: str) -> None:
    response = server.post(png(np.zeros((64, 64, 3), np.uint8)), **fields)
    assert response.status_code == 422
    assert sentence in response.json()["detail"]


@pytest.mark.parametrize(
    "size", ["0", "-1", "65537", str(2**31), str(2**63), str(10**400), "\u0661\u0662", " 5", "+5", "1e3", "nan"]
)
def test_numbers_of_any_length(server: Any, size: str) -> None:
    response = server.post(png(np.zeros((64, 64, 3), np.uint8)), size=size)
    assert response.status_code == 422
    assert re.fullmatch("size=.* is neither a number of pixels from 8 to 65536 nor 'native'", response.json()["detail"])


def test_charsets_that_forms_name(server: Any) -> None:
    image = png(np.zeros((64, 64, 3), np.uint8))
    for charset, name, status in (
        ("undefined", "a", 422),
        ("punycode", "-\\", 422),
        ("unicode_escape", "\\\\ud800", 200),
        ("utf-16", "aa", 422),
        ("zlib", "a", 200),
    ):
        head = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
        kind = {"Content-Type": f"multipart/form-data; boundary=b; charset={charset}"}
        body = head + image + b"\r\n--b--\r\n"
        response = requests.post(f"{server.url}/colorize", data=body, headers=kind, timeout=9)
        assert response.status_code == status, (charset, response.text)


def test_a_form_of_many_parts_and_long_headers(server: Any) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    for body in (part % b"a" * 10_000, part % (b"a" * 10**6), b"--b\r\n" + b"a: b\r\n" * 10**6):
        start = time.monotonic()
        assert requests.post(f"{server.url}/colorize", data=body, headers=kind, timeout=9).status_code == 422
        assert time.monotonic() - start < 5


def test_invalid_forms(server: Any) -> None:
    where = f"{server.url}/colorize"
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    for request, status, sentence in (
        ({"data": b"\xff\xd8\xff", "headers": {"Content-Type": "image/jpeg"}}, 415, "multipart/form-data"),
        ({"json": {"file": "x"}}, 415, "multipart/form-data"),
        ({"files": {"picture": ("a", b"x")}}, 422, "no file in the field 'file'"),
        ({"files": {"file": (None, "x")}}, 422, "no file in the field 'file'"),
        ({"data": b"no form", "headers": kind}, 422, "the form cannot be parsed"),
        ({"data": b"no form", "headers": {"Content-Type": "multipart/form-data"}}, 422, "the form cannot be parsed"),
    ):
        response = requests.post(where, timeout=9, **request)
        assert (response.status_code, sentence in response.json()["detail"]) == (status, True), response.text
    assert requests.get(where, timeout=9).status_code == 405


def test_the_limit_of_the_network_s_input(server: Any) -> None:
    large = png(np.zeros((1500, 2000), np.uint8))
    assert server.post(large).status_code == 200
    response = server.post(large, size="native")
    assert response.status_code == 422
    assert "the network's input would have 3.0 megapixels; the limit is 2.1" in response.json()["detail"]
    assert input_pixels((2000, 1500), None) > MAX_INPUT_PIXELS


def test_responses(server: Any, photos: Path) -> None:
    jpeg = (photos / "rocket.jpg").read_bytes()
    response = server.post(jpeg, name="C:\\old\\Großmutter.JPG")
    assert response.headers["Content-Type"] == "image/jpeg"
    assert response.headers["Content-Disposition"] == (
        "attachment; filename=\"Gro_mutter-warm.jpg\"; filename*=UTF-8''Gro%C3%9Fmutter-warm.jpg"
    )
    assert 0 <= float(response.headers["X-Photochrom-Clipped"]) <= 1
    assert re.fullmatch(
        r"wait;dur=[\d.]+, decode;dur=[\d.]+, network;dur=[\d.]+, encode;dur=[\d.]+", response.headers["Server-Timing"]
    )
    assert pixels_of(response).shape == (427, 640, 3)
    assert server.post(jpeg, format="png").headers["Content-Type"] == "image/png"
    assert server.post(jpeg, headers={"Accept": "image/png"}).headers["Content-Type"] == "image/png"
    assert server.post(jpeg, headers={"Accept": "image/png"}, format="jpg").headers["Content-Type"] == "image/jpeg"
    assert server.post(jpeg, headers={"Accept": "text/html,*/*"}).headers["Content-Type"] == "image/jpeg"


def test_changes_are_reported(server: Any, photos: Path) -> None:
    layered = Image.open(photos / "coffee.png").convert("RGBA")
    layered.putalpha(128)
    turned, file = Image.Exif(), io.BytesIO()
    turned[0x0112] = 6
    Image.open(photos / "coffee.png").convert("L").save(file, "JPEG", exif=turned)
    wide = np.asarray(Image.open(photos / "coffee.png").convert("L")).astype(np.uint16) * 257
    for data, change, shape in (
        (png(np.asarray(layered)), "laid on white", (400, 600, 3)),
        (file.getvalue(), "turned upright", (600, 400, 3)),
        (png(wide), "from 16 bit", (400, 600, 3)),
    ):
        response = server.post(data)
        assert change in response.headers["X-Photochrom-Changes"]
        assert pixels_of(response).shape == shape


def test_pages_of_other_sites_are_refused(server: Any) -> None:
    image = png(np.zeros((64, 64, 3), np.uint8))
    port = server.url.rpartition(":")[2]
    for headers, status in (
        ({"Host": f"evil.example:{port}"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "[::1"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": f"http://127.0.0.1:{int(port) + 1}"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[x"}, 403),
        ({"Origin": server.url}, 200),
        ({"Host": f"localhost:{port}"}, 200),
        ({"Host": f"192.0.2.7:{port}"}, 200),
        ({"Host": f"[::1]:{port}"}, 200),
    ):
        response = server.post(image, headers=headers)
        assert response.status_code == status, (headers, response.text)
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in response.headers
    assert requests.get(f"{server.url}/models", headers={"Host": "evil.example"}, timeout=9).status_code == 403


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("nas.lan:8000", None, 200),
        ("NAS.LAN.", None, 200),
        ("a.b.example.org", None, 200),
        ("example.org", None, 403),
        ("evilexample.org", None, 403),
        ("nas.lan.evil.example", None, 403),
        ("photos.localhost", None, 200),
        ("localhost.", None, 200),
        ("[::1]:80", None, 200),
        (None, None, 200),  # a monitor that speaks HTTP/1.0; all browsers send a host
        (None, "http://evil.example", 403),
        ("photochrom.example.org:8000", "https://nas.lan", 200),  # behind a proxy with a Host of its own
        ("photochrom.example.org:8000", "http://evil.example", 403),
        ("photochrom.example.org:8000", "http://localhost", 403),
        ("photochrom.example.org:8000", "null", 403),
    ],
)
def test_names_that_are_allowed(host: str | None, origin: str | None, status: int) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    pairs = [(name.encode(), text.encode()) for name, text in (("host", host), ("origin", origin)) if text is not None]
    scope: Any = {"type": "http", "method": "GET", "headers": pairs}
    check = OriginCheck(PlainTextResponse("fine"), "localhost", ["nas.lan", "*.Example.org"])
    asyncio.run(check(scope, None, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == status


def test_head_is_answered_as_get(server: Any) -> None:
    for path in ("/", "/healthz", "/models", "/openapi.json", "/colorize", "/nothing"):
        head, get = (requests.request(method, server.url + path, timeout=9) for method in ("HEAD", "GET"))
        assert (head.status_code, head.content) == (get.status_code, b"")
        assert head.headers["Content-Length"] == get.headers["Content-Length"]


def test_the_page_loads_nothing_from_other_sites(server: Any) -> None:
    response = requests.get(server.url, timeout=9)
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "//" not in re.sub(r"^\s*//.*|[^:]// .*", "", response.text, flags=re.MULTILINE)
    assert not re.search(r"\s(on\w+|style)=", response.text.partition("<script>")[0])  # which the policy would not let


def test_information_for_programs(server: Any) -> None:
    info = requests.get(f"{server.url}/models", timeout=9).json()
    assert [(model["name"], model["size"], model["loss"]) for model in info["models"]] == [
        ("warm", 32, "L2"),
        ("cold", 32, "L2"),
    ]
    assert info["limits"]["bytes"] == MEGABYTES * 10**6
    assert requests.get(f"{server.url}/healthz", timeout=9).json() == {"status": "ok"}
    schema = requests.get(f"{server.url}/openapi.json", timeout=9).json()
    form = schema["paths"]["/colorize"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["properties"]["model"]["enum"] == ["warm", "cold"]
    assert set(schema["paths"]["/colorize"]["post"]["responses"]) == {"200", "403", "408", "413", "415", "422", "503"}
    for path in ("/docs", "/redoc", "/nothing"):
        assert requests.get(server.url + path, timeout=9).json() == {"detail": "Not Found"}


def test_a_large_upload_is_not_written_to_disk(server: Any) -> None:
    """Starlette would write uploads above 1 MB to a temporary file."""
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1500, 3), np.uint8)
    data = png(noise)
    assert len(data) > 5e6
    descriptors, seen, done = Path(f"/proc/{server.process.pid}/fd"), set(), threading.Event()

    def watch() -> None:
        while not done.is_set():
            for descriptor in descriptors.iterdir():
                with suppress(OSError):  # temporary files have no name, but a descriptor; workers' socket, too
                    if not descriptor.is_socket():
                        seen.add(os.readlink(descriptor))
            seen.update(map(str, server.files()))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        assert server.post(data).status_code == 200
    finally:
        done.set()
        watching.join()
    assert [path for path in seen if path.startswith(str(server.folder)) or path.endswith("(deleted)")] == []


class WorkerFunction:
    """A function made in the worker: a lambda of this source."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return eval, (f"lambda task: {self.code}",)


RUN_TASK = "__import__('photochrom.engine.serving.decoding', fromlist=['run_task']).run_task(task)"


def post(url: str, data: bytes) -> requests.Response:
    return requests.post(f"{url}/colorize", files={"file": ("old.png", data)}, timeout=60)


@contextmanager
def in_this_process(models: list[Path], **settings: Any) -> Iterator[tuple[str, ColorizeApp]]:
    """Runs a server in this process; yields its address and the application."""
    served = [ServedModel(name=path.name, model=photochrom.load(path), size=32) for path in models]
    app = ColorizeApp(served, torch.device("cpu"), max_bytes=10**7, max_pixels=10**7, **settings)
    loop = Server(app.app)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=loop.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", app
        finally:
            loop.should_exit = True
            thread.join()
            app.close()


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("__import__('time').sleep(60)", "the image cannot be decoded: the decoder hung, no result after 1 s"),
        ("__import__('os').abort()", "the image cannot be decoded: the decoder crashed, SIGABRT"),
    ],
)
def test_a_decoder_that_hangs_or_crashes_fails_one_request(models: list[Path], fault: str, sentence: str) -> None:
    code = f"{fault} if not task.header_only and len(task.data) < 500 else {RUN_TASK}"
    good = png(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    bad = png(np.zeros((64, 64, 3), np.uint8))
    assert len(bad) < 500 < len(good)
    with (
        in_this_process(models, decode=WorkerFunction(code), decode_seconds=1) as (url, _),
        ThreadPoolExecutor(6) as pool,
    ):
        assert post(url, good).status_code == 200
        started = time.monotonic()
        responses = list(pool.map(partial(post, url), [bad, good, good, bad, good, good]))
        assert time.monotonic() - started < 20
        assert [response.status_code for response in responses] == [422, 200, 200, 422, 200, 200]
        assert responses[0].json() == {"detail": sentence}
        assert post(url, good).status_code == 200


def test_a_small_image_does_not_wait_for_large_ones(models: list[Path], tmp_path: Path) -> None:
    """The decoder of large ones waits for a file."""
    go = tmp_path / "go"
    wait = f"list(iter(lambda: __import__('os').path.exists({str(go)!r}) or __import__('time').sleep(0.02), True))"
    slow = f"(len(task.data) > 500 and not task.header_only and {wait}, {RUN_TASK})[1]"
    large, small = np.random.default_rng(0).integers(0, 256, (1200, 1200), np.uint8), np.zeros((64, 64), np.uint8)
    with (
        in_this_process(models, decode=WorkerFunction(slow), decode_seconds=60) as (url, app),
        ThreadPoolExecutor(2) as pool,
    ):
        assert post(url, png(small)).status_code == 200
        waiting = [pool.submit(post, url, png(large)) for _ in range(2)]
        time.sleep(0.5)
        assert post(url, png(small)).status_code == 200
        assert not any(future.done() for future in waiting)
        go.touch()
        assert [future.result().status_code for future in waiting] == [200, 200]
        header = ImageHeader(width=800, height=1000, format="PNG")
        assert app._lane(header, 512) is app._small
        assert app._lane(header, None) is app._large  # which takes as long in the network


def test_uploads_in_memory_are_limited(models: list[Path]) -> None:
    image = png(np.zeros((64, 64, 3), np.uint8))
    with in_this_process(models) as (url, app):
        memory = app._uploads
        free, memory._free = memory._free, len(image)
        response = post(url, image)
        assert (response.status_code, response.headers["Retry-After"]) == (503, "2")
        assert memory._free == len(image)
        memory._free = free
        assert post(url, image).status_code == 200
        assert memory._free == free


def test_an_upload_that_trickles_is_ended(models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("photochrom.engine.serving.upload.GRACE_SECONDS", 0.5)
    with in_this_process(models) as (url, _):

        def body() -> Iterator[bytes]:
            yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            for _ in range(30):
                yield b"x"
                time.sleep(0.05)

        start = time.monotonic()
        kind = {"Content-Type": "multipart/form-data; boundary=b"}
        with suppress(requests.ConnectionError):
            response = requests.post(f"{url}/colorize", data=body(), headers=kind, timeout=9)
            assert response.status_code == 408
        assert 0.4 < time.monotonic() - start < 5


def test_a_busy_server_asks_to_retry(models: list[Path]) -> None:
    image = png(np.zeros((64, 64, 3), np.uint8))
    with in_this_process(models) as (url, app):
        slots, app._slots = app._slots, asyncio.Semaphore(0)
        response = post(url, image)
        assert (response.status_code, response.headers["Retry-After"]) == (503, "2")
        assert "the server is busy" in response.json()["detail"]
        app._slots, free = slots, slots._value
        assert post(url, image).status_code == 200
        assert post(url, b"").status_code == 422
        assert slots._value == free


def test_internal_errors_are_reported_and_survived(models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    image = png(np.zeros((64, 64, 3), np.uint8))
    with in_this_process(models) as (url, _):
        full = torch.OutOfMemoryError("CUDA out of memory")
        for error, status, sentence in (
            (KeyError("x"), 500, "internal error (KeyError); see the server's console"),
            (full, 503, "the memory is full: choose a smaller size"),
        ):
            with monkeypatch.context() as broken:

                def fails(*_: Any, error: Exception = error, **__: Any) -> None:
                    raise error

                broken.setattr("photochrom.engine.serving.batching.colorize", fails)
                response = post(url, image)
            assert (response.status_code, response.json()) == (status, {"detail": sentence})
        assert post(url, image).status_code == 200


def test_sigterm_ends_it(models: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]

    def terminate() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with suppress(requests.ConnectionError):
                assert requests.get(f"http://127.0.0.1:{port}/healthz", timeout=9).json() == {"status": "ok"}
                break
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a failure must not kill pytest
    client = threading.Thread(target=terminate)
    client.start()
    try:
        with pytest.raises(SystemExit) as left:
            main(["serve", "--model", str(models[0]), "--port", str(port)])
    finally:
        signal.signal(signal.SIGTERM, handler)
        client.join()
    assert left.value.code == 0
    assert capsys.readouterr() == (f"http://127.0.0.1:{port}  warm; press Ctrl-C to stop\n", "")


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (
            ["--model", "RUN", "--port", "TAKEN"],
            1,
            "Address already in use): choose another with --port, or 0 for a free one",
        ),
        (["--model", "RUN", "--host", "no.such.host.invalid"], 1, "cannot listen on no.such.host.invalid, port 8000"),
        (["--model", "nowhere", "--port", "0"], 1, "there is no checkpoint at nowhere"),
        (["--model", "RUN", "--port", "70000"], 2, "--port 70000 is not between 0 and 65,535"),
        (["--model", "RUN", "--size", "4"], 2, "--size 4 is not between 8 and 65,536"),
        (["--model", "RUN", "--max-megabytes", "0"], 2, "--max-megabytes 0.0 is not a positive number"),
        (["--model", "RUN", "--max-megapixels", "200"], 2, "--max-megapixels 200 is not above 0 and up to 100"),
        (
            ["--allow-host", "nas.lan", "http://nas.lan"],
            2,
            "--allow-host 'http://nas.lan' is not a name, such as nas.lan",
        ),
        (["--allow-host", "*"], 2, "--allow-host '*' is not a name"),
        (["RUN"], 2, "is one argument too many"),
    ],
)
def test_invalid_commands(
    models: list[Path], arguments: list[str], code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        places = {"RUN": str(models[0]), "TAKEN": str(taken.getsockname()[1])}
        try:
            status = main(["serve", *(places.get(word, word) for word in arguments)])
        except SystemExit as left:
            status = int(left.code)  # type: ignore[arg-type]
    captured = capsys.readouterr()
    assert (status, sentence in captured.err, captured.out, len(captured.err.splitlines())) == (
        code,
        True,
        "",
        1,
    )


@pytest.mark.parametrize("module", ["fastapi", "uvicorn", "python_multipart"])
def test_missing_packages_are_named(
    models: list[Path], module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith(("photochrom.engine.serving.", f"{module}."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["serve", "--model", str(models[0]), "--port", "0"]) == 1
    assert "pip install fastapi python-multipart uvicorn" in capsys.readouterr().err
