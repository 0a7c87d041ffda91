"""bench/gpu.sh and its probes, as far as they can be tested without a GPU."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import photochrom
import pytest
from photochrom.bench.gpu_probes import main
from photochrom.pipelines import ShardSet

SCRIPT = Path(photochrom.__file__).parent / "bench" / "gpu.sh"
FILES = {
    "measure": {"log.txt", "peak.json", "step.json", "profile.json", "syncs.json", "loop.json", "exact.json"},
    "train": {"log.txt", "model.safetensors", "model.md", "evaluate.json", "train-metrics.jsonl"},
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(SCRIPT.parents[1] / ".src")}
    return subprocess.run(["bash", str(SCRIPT), *arguments], capture_output=True, text=True, env=environment)


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a GPU")
def test_without_a_gpu_the_script_says_so_and_writes_nothing(shards: ShardSet, tmp_path: Path) -> None:
    done = run("measure", str(shards.root), str(tmp_path / "out"))
    assert done.returncode == 1
    assert done.stderr.startswith("bench/gpu.sh needs an NVIDIA GPU")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [[], ["measure", "x"], ["learn", "x", "y"], ["train", "x", "y", "--dry"]])
def test_bad_usage_prints_the_usage(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: bench/gpu.sh measure|train SHARDS OUT [--dry-run]")


def test_a_folder_that_is_not_packed_is_refused(tmp_path: Path) -> None:
    done = run("measure", str(tmp_path), str(tmp_path / "out"), "--dry-run")
    assert done.returncode == 1
    assert "is not a packed set: 'photochrom pack PHOTOGRAPHS" in done.stderr


@pytest.mark.parametrize(("verb", "most"), [("measure", 420), ("train", 240)])
def test_the_limits_add_up_to_what_the_script_promises(verb: str, most: int) -> None:
    body = re.search(rf"^{verb}\(\) {{(.*?)^}}", SCRIPT.read_text(), re.DOTALL | re.MULTILINE)
    assert body
    limits = re.findall(r"^( +)(?:grace=\d+ )?(?:step|probe|photochrom) (\d+) ", body[1], re.MULTILINE)
    assert len(limits) > 2
    assert sum(int(limit) * (3 if len(indent) == 4 else 1) for indent, limit in limits) <= most  # three loaders


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("verb", ["measure", "train"])
def test_a_rehearsal_runs_every_command_and_writes_every_file(verb: str, shards: ShardSet, tmp_path: Path) -> None:
    done = run(verb, str(shards.root), str(tmp_path), "--dry-run")
    assert done.returncode == 0, done.stdout
    assert "!!!" not in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == FILES[verb]
    if verb == "measure":
        loop = json.loads((tmp_path / "loop.json").read_text())
        assert [row["loader"] for row in loop["rows"]] == ["dali", "synthetic", "torch"]
        assert json.loads((tmp_path / "profile.json").read_text())["rows"][0]["ms"] > 0


def test_each_run_is_compared_with_the_goals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the second half of its log; what a killed run did not write whole does not count.

    At 64 pixels, where a photograph takes a sixteenth of the arithmetic.
    """
    peak, out = tmp_path / "peak.json", tmp_path / "loop.json"
    peak.write_text(json.dumps({"rows": [{"product(TFLOP/s)": 790.0 / 16}]}))
    for name, throughput, wait in (("dali", 1950.0, 1.0), ("torch", 1500.0, 5.0)):
        lines: list[dict[str, Any]] = [{"throughput(img/s)": value, "time/data_wait(%)": wait} for value in (9, 9)]
        lines += [{"throughput(img/s)": throughput, "time/data_wait(%)": wait}] * 3 + [{"val/rmse_ab": 9.0}]
        (tmp_path / "runs" / name).mkdir(parents=True)
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        (tmp_path / "runs" / name / "metrics.jsonl").write_text(f'{text}{{"throughput')
    arguments = ["loop", "--peak", str(peak), "--runs", str(tmp_path / "runs"), "--out", str(out)]
    assert main([*arguments, "--config", "l2", "--train.device", "cpu", "--data.size", "64"]) == 0
    dali, torch = json.loads(out.read_text())["rows"]
    assert dali["of_measured_product(%)"] == pytest.approx(100 * 1950 * 248.7e9 / 790e12, rel=1e-3)
    assert (dali["missed"], torch["images/s"]) == ("nothing", 1500)
    assert torch["missed"] == "images/s 1900, data_wait(%) 2, of_measured_product(%) 60"
    assert "dali: goals missed: nothing" in capsys.readouterr().out
