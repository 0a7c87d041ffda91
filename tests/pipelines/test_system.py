"""Memory: what is free, and what libraries raise when it is not."""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from photochrom.pipelines.imaging.decode import decode
from photochrom.pipelines.system import available_memory, is_out_of_memory
from PIL import Image

HUGE = 1 << 45  # bytes, which no machine has


@pytest.mark.parametrize(
    "fail",
    [
        lambda: bytes(HUGE),
        lambda: np.zeros(HUGE, np.uint8),
        lambda: np.zeros((1 << 40, 1 << 40)),
        lambda: np.zeros(1 << 70),
        lambda: torch.empty(HUGE),
        lambda: torch.empty(1 << 40, 1 << 40),
        lambda: torch.nn.functional.interpolate(torch.rand(1, 1, 8, 8), size=(1 << 21, 1 << 21)),
    ],
)
def test_every_library_s_lack_of_memory_is_recognized(fail: Callable[[], Any]) -> None:
    with pytest.raises((MemoryError, RuntimeError, ValueError)) as caught:
        fail()
    assert is_out_of_memory(caught.value), caught.value


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("could not create a primitive"),  # oneDNN's
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_so_is_that_of_devices_and_of_the_system(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("rank 0 has lost another process: it was killed (out of memory?)"),
        RuntimeError("size mismatch"),
        OSError(28, "No space left on device"),
        KeyError("out of memory"),
    ],
)
def test_other_errors_are_not(error: Exception) -> None:
    assert not is_out_of_memory(error)


# A progressive JPEG, whose coefficients libjpeg-turbo holds in memory.
DECODE_WITH_LITTLE_MEMORY = """
import resource, sys, psutil
from photochrom.pipelines.imaging.decode import decode
data = open(sys.argv[1], "rb").read()
limit = psutil.Process().memory_info().vms + (20 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    decode(data)
except MemoryError:
    print("no memory")
"""


def test_a_jpeg_that_lacks_memory_is_not_damaged(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (3000, 3000, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.jpg", progressive=True)
    assert decode((tmp_path / "large.jpg").read_bytes()).pixels.shape == pixels.shape
    command = [sys.executable, "-c", DECODE_WITH_LITTLE_MEMORY, str(tmp_path / "large.jpg")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "no memory\n", done.stderr


def test_the_limit_of_the_process_counts() -> None:
    code = "from photochrom.pipelines.system import available_memory; print(available_memory())"
    gib = 1 << 30
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (gib, gib)),
    )
    assert 0 < int(done.stdout) < gib


@pytest.mark.parametrize(
    ("line", "folder", "files"),
    [
        ("0::/job/step", "job", {"memory.max": "5000", "memory.current": "3000", "memory.stat": "inactive_file 500\n"}),
        (
            "4:cpu,memory:/docker/1",  # which the container does not see
            "memory",
            {
                "memory.limit_in_bytes": "5000",
                "memory.usage_in_bytes": "3000",
                "memory.stat": "inactive_file 1\ntotal_inactive_file 500\n",
            },
        ),
    ],
)
def test_control_groups_and_those_around_them_count(
    tmp_path: Path, line: str, folder: str, files: dict[str, str]
) -> None:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(f"12:cpuset:/\n{line}\n")
    group = tmp_path / "sys" / "fs" / "cgroup" / folder
    (group / "step").mkdir(parents=True)
    (group / "step" / "memory.max").write_text("max\n")
    for name, text in files.items():
        (group / name).write_text(text)
    assert available_memory(tmp_path) == 2500


def test_without_control_groups_the_machine_s_memory_counts(tmp_path: Path) -> None:
    assert available_memory(tmp_path) > 1 << 20


def test_a_worker_s_lack_of_memory_is_that_photograph_s(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from photochrom.pipelines.imaging.encode import EncodingSettings
    from photochrom.pipelines.packing import process_image as module
    from photochrom.pipelines.packing.members import LocalFile, SourceFile

    def fail(*_: object) -> None:
        torch.empty(HUGE)

    monkeypatch.setattr(module, "encode_image", fail)
    file = SourceFile(path="rocket.jpg", class_name="", content=LocalFile(photos / "rocket.jpg"))
    result = module.process_image(file, settings=EncodingSettings(), seed=0)
    assert "not enough memory" in str(result)
