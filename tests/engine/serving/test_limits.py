"""Tests of a whole server's descriptors, memory and lines in the log."""

import io
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests
from PIL import Image

MEGABYTE = 1e6


@pytest.mark.slow
def test_half_open_connections_do_not_take_all_descriptors(start: Any, models: list[Path], tmp_path: Path) -> None:
    with start(models, tmp_path, descriptors=64) as server:
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        half: list[socket.socket] = []
        for _ in range(100):
            half.append(socket.create_connection(address))
            half[-1].sendall(b"POST /colorize HTTP/1.1\r\nHost: ")
        image = io.BytesIO()
        Image.new("RGB", (64, 64)).save(image, "PNG")
        for _ in range(5):
            assert server.post(image.getvalue()).status_code == 200
            assert requests.get(f"{server.url}/healthz", timeout=20).status_code == 200
        server.process.send_signal(signal.SIGINT)
        assert server.process.communicate(timeout=60)[1] == "photochrom serve: interrupted\n"


@pytest.mark.slow
def test_memory_of_a_burst_with_the_default_limits(start: Any, models: list[Path], tmp_path: Path) -> None:
    """docs/using.md: 1.6 GB for these, and it goes back to the system; meanwhile small images are served."""
    pixels = np.zeros((7000, 7000, 4), np.uint8)
    pixels[..., :3] = np.random.default_rng(0).integers(0, 256, 3, np.uint8)
    large, small = io.BytesIO(), io.BytesIO()
    Image.fromarray(pixels).save(large, "PNG", compress_level=1)  # with transparency, which takes the most to decode
    Image.fromarray(pixels[:2000, :3000]).save(small, "PNG", compress_level=1)
    with start(models, tmp_path) as server:
        assert server.post(small.getvalue()).status_code == 200
        main = psutil.Process(server.process.pid)

        def memory() -> int:
            return sum(process.memory_full_info().pss for process in (main, *main.children(recursive=True)))

        before, peak, done = memory(), 0, threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.1):
                peak = max(peak, memory())

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            with ThreadPoolExecutor(3) as pool:
                waiting = [pool.submit(server.post, large.getvalue(), format="png") for _ in range(3)]
                time.sleep(3)
                assert server.post(small.getvalue()).status_code == 200
                assert not all(future.done() for future in waiting)
                assert [future.result().status_code for future in waiting] == [200] * 3, waiting[0].result().text[:300]
        finally:
            done.set()
            watching.join()
        time.sleep(3)
        assert peak < 2500 * MEGABYTE
        assert memory() < before + 300 * MEGABYTE
