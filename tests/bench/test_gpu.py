"""bench/gpu.sh, as far as it can be tested without a GPU."""

import re
import shutil
import subprocess
from pathlib import Path

import photochrom
import pytest
from photochrom.bench.command import VERBS

SCRIPT = Path(photochrom.__file__).parent / "bench" / "gpu.sh"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", str(SCRIPT), *arguments], capture_output=True, text=True)


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a GPU")
def test_without_a_gpu_the_script_says_so_and_writes_nothing(tmp_path: Path) -> None:
    done = run(str(tmp_path), str(tmp_path / "out"))
    assert done.returncode == 1
    assert done.stderr.startswith("bench/gpu.sh needs an NVIDIA GPU")
    assert not (tmp_path / "out").exists()


def test_without_photographs_the_script_prints_its_usage() -> None:
    done = run()
    assert done.returncode == 2
    assert done.stderr.startswith("usage: bench/gpu.sh PHOTOGRAPHS [OUT]")


def test_the_script_uses_existing_verbs() -> None:
    text = SCRIPT.read_text()
    assert subprocess.run(["bash", "-n", str(SCRIPT)]).returncode == 0
    assert set(re.findall(r"\bbench ([a-z]+) --", text)) == {"step", "stalls", "loader"} <= VERBS.keys()
