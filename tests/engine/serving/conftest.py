"""A server in a process of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import torch
from photochrom.engine.checkpoints.model_file import load_with_metadata, save_model


@pytest.fixture(scope="session")
def models(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Returns two runs: one predicts warm colours, one predicts cold colours."""
    network, metadata = load_with_metadata(trained)
    folder = tmp_path_factory.mktemp("models")
    for name, shift in (("warm", 0.08), ("cold", -0.08)):
        torch.manual_seed(len(name))
        torch.nn.init.normal_(network.to_ab.weight, std=0.02)
        torch.nn.init.constant_(network.to_ab.bias, shift)
        (folder / name).mkdir()
        save_model(network.state_dict(), metadata, folder / name / "model.safetensors")
    return [folder / "warm", folder / "cold"]


@dataclass(frozen=True)
class Running:
    """A server: its address, its process, and the folder that it works in and might write to."""

    url: str
    process: subprocess.Popen[str]
    folder: Path

    def post(self, data: bytes, name: str = "old.png", headers: dict[str, str] | None = None, **fields: str) -> Any:
        form = {"file": (name, data)}
        return requests.post(f"{self.url}/colorize", files=form, data=fields, headers=headers, timeout=300)

    def files(self) -> list[Path]:
        """Returns all that is in the folder; multiprocessing's socket is not left there."""
        return list(self.folder.rglob("*"))


@pytest.fixture(scope="module")
def server(models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of both models in an empty folder, which stays empty; it ends at Ctrl-C."""
    folder = tmp_path_factory.mktemp("nothing")
    with started(models, folder, "--max-megabytes", "8", "--max-megapixels", "4") as running:
        yield running
        assert running.process.poll() is None
        assert running.files() == []
        decoders = psutil.Process(running.process.pid).children(recursive=True)
        running.process.send_signal(signal.SIGINT)
        _, error = running.process.communicate(timeout=60)
        assert (running.process.returncode, error) == (130, "photochrom serve: interrupted\n")
        assert psutil.wait_procs(decoders, timeout=30)[1] == []
        assert list(folder.iterdir()) == []


@pytest.fixture(scope="session")
def start() -> Any:
    """Returns `started`, for tests that need a server with limits of its own."""
    return started


@contextmanager
def started(models: list[Path], folder: Path, *options: str, descriptors: int | None = None) -> Iterator[Running]:
    command = [sys.executable, "-m", "photochrom", "serve", "--model", *map(str, models), "--port", "0", *options]
    environment = {**os.environ, "TMPDIR": str(folder), "HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    if descriptors is not None:
        command = ["prlimit", f"--nofile={descriptors}", *command]
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), process.stderr
        yield Running(line.split()[0], process, folder)
    finally:
        process.kill()
        process.wait()
