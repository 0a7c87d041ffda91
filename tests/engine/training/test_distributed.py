"""Several processes, launched as a user would."""

import json
import os
import platform
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import photochrom
import psutil
import pytest
import torch
from photochrom.engine.cli import main
from photochrom.engine.evaluation.predictors import ModelPredictor
from photochrom.engine.evaluation.score import score
from photochrom.engine.training.shutdown import explain_lost_process
from photochrom.losses import L2
from photochrom.pipelines import DaliLoader, ShardSet
from safetensors.torch import load_file

MEND = "'photochrom verify --decode' lists all such; pack again, into a new folder"
TWO_RANKS = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def command(shards: ShardSet, out: Path, *overrides: str, launcher: Sequence[str] = ()) -> list[str]:
    """What a user would type; a later override counts."""
    train = ["photochrom", "train", "--out", str(out), "--data.train", str(shards.root), "--data.size", "32"]
    train += ["--model.width", "0.0625", "--train.steps", "6", "--train.batch_size", "8", "--train.device", "cpu"]
    train += ["--train.precision", "fp32"]  # what is equal in fp32 is not in bf16, which auto takes where a CPU has it
    train += ["--loader.threads", "1", "--optim.lr", "1e-4", "--log.every", "1", *overrides]
    return [sys.executable, *launcher, "-m", *train]


def train(
    shards: ShardSet, out: Path, *overrides: str, ranks: int = 1, launcher: Sequence[str] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    """A run to its end: of several ranks in processes of their own, of one in this."""
    if ranks > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    line = command(shards, out, *overrides, launcher=launcher)
    if not launcher and not variables:
        return subprocess.CompletedProcess(line, main(line[3:]), "", "")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(line, capture_output=True, text=True, env=environment, timeout=240)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


def assert_same_weights(one: Path, other: Path, tolerance: float) -> None:
    a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert a.keys() == b.keys()
    for name in a:
        if not name.endswith(BUFFERS):
            torch.testing.assert_close(a[name], b[name], rtol=0, atol=tolerance)


def wait_for_checkpoint(job: subprocess.Popen[str], run: Path) -> None:
    """Until training has gone on beyond a checkpoint that is whole; they are written beside it."""
    assert job.stderr is not None
    for line in job.stderr:
        if line.startswith("step ") and any((run / "checkpoints").glob("step-*")):
            return
    raise AssertionError("it ended before it had saved anything")


@pytest.fixture(scope="module")
def one_rank(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rank that accumulates over the two halves of each batch."""
    out = tmp_path_factory.mktemp("one") / "run"
    done = train(shards, out, "--train.grad_accum_steps", "2")
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def two_ranks(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks with half of each batch each, validating too."""
    out = tmp_path_factory.mktemp("two") / "run"
    done = train(shards, out, "--data.val", str(shards.root), "--log.validate_every", "6", ranks=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out / 'model.safetensors'}\n", "only the first process speaks"
    return out


def test_two_ranks_learn_what_one_rank_does(one_rank: Path, two_ranks: Path) -> None:
    assert_same_weights(one_rank, two_ranks, 1e-5)
    assert losses(two_ranks) == pytest.approx(losses(one_rank), rel=1e-5)


def test_ranks_and_parts_multiply(shards: ShardSet, tmp_path: Path) -> None:
    steps = ("--train.steps", "3")  # Adam enlarges what rounding makes of gradients next to nothing, step by step
    assert train(shards, tmp_path / "four", "--train.grad_accum_steps", "4", *steps).returncode == 0
    assert train(shards, tmp_path / "two-by-two", "--train.grad_accum_steps", "2", *steps, ranks=2).returncode == 0
    assert_same_weights(tmp_path / "four", tmp_path / "two-by-two", 1e-5)


def test_accelerate_launches_what_torchrun_does(two_ranks: Path, shards: ShardSet, tmp_path: Path) -> None:
    """--multi_gpu, as the README says: the launcher starts the same processes where there are only CPUs."""
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--num_processes", "2"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(free_port())]
    done = train(shards, tmp_path / "run", launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert_same_weights(two_ranks, tmp_path / "run", 1e-5)


def test_what_accelerate_was_configured_for_behind_our_back_is_refused(shards: ShardSet, tmp_path: Path) -> None:
    done = train(shards, tmp_path / "run", ACCELERATE_GRADIENT_ACCUMULATION_STEPS="4")
    assert done.returncode == 1
    assert "Accelerate is configured to accumulate gradients over 4 steps" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_killed_goes_on_by_the_same_command(shards: ShardSet, tmp_path: Path) -> None:
    out = tmp_path / "run"
    overrides = ["--train.grad_accum_steps", "2", "--checkpoint.every", "2"]
    process = subprocess.Popen(
        command(shards, out, *overrides, "--train.steps", "100000"),
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    wait_for_checkpoint(process, out)
    process.kill()
    process.communicate(timeout=60)
    steps = str(max(int(path.name[5:]) for path in (out / "checkpoints").glob("step-*")) + 2)
    for folder in (out, tmp_path / "unbroken"):
        done = train(shards, folder, *overrides, "--train.steps", steps)
        assert done.returncode == 0, done.stderr
    assert_same_weights(tmp_path / "unbroken", out, 0)


def test_the_whole_batch_at_once_is_something_else(one_rank: Path, shards: ShardSet, tmp_path: Path) -> None:
    """BatchNorm sees other photographs: or else the test above would prove nothing."""
    assert train(shards, tmp_path / "run").returncode == 0
    with pytest.raises(AssertionError):
        assert_same_weights(one_rank, tmp_path / "run", 1e-5)


def test_a_run_of_two_ranks_goes_on_with_one(two_ranks: Path, shards: ShardSet, tmp_path: Path) -> None:
    """RunStopped at step 3 of 6 on two ranks; the other three are one rank's."""
    assert train(shards, tmp_path / "run", "--train.steps", "3", ranks=2).returncode == 0
    assert train(shards, tmp_path / "run", "--train.grad_accum_steps", "2").returncode == 0
    assert_same_weights(two_ranks, tmp_path / "run", 1e-5)


def test_validation_on_two_ranks_scores_what_is_saved_on_every_photograph(two_ranks: Path, shards: ShardSet) -> None:
    lines = [json.loads(line) for line in (two_ranks / "metrics.jsonl").read_text().splitlines()]
    (validation,) = [line for line in lines if "val/rmse_ab" in line]
    assert validation["step"] == 6
    loader = DaliLoader(shards, batch_size=9, size=32, train=False)
    figures = score(ModelPredictor(photochrom.load(two_ranks), L2()), loader)
    assert {name: validation[f"val/{name}"] for name in figures} == pytest.approx(figures, rel=1e-4)


def test_a_photograph_that_one_rank_cannot_decode_stops_all(shards: ShardSet, tmp_path: Path) -> None:
    root = Path(shutil.copytree(shards.root, tmp_path / "damaged"))
    damaged = ShardSet.open(root)
    offset, size = damaged.byte_ranges[4].tolist()
    with open(damaged.tar(4), "r+b") as tar:
        tar.seek(offset)
        tar.write(bytes(size))
    done = train(damaged, tmp_path / "run", ranks=2)  # and not after the time limit
    assert done.returncode == 1
    sentences = [line for line in done.stderr.splitlines() if line.startswith("photochrom train:")]
    others = [sentence for sentence in sentences if "has lost another process, in step" not in sentence]
    assert others == [f"photochrom train: {damaged.describe_sample(4)} cannot be read any more (not an image): {MEND}"]


def started(line: list[str]) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A job that takes steps, and its processes by rank."""
    job = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert job.stderr is not None
    assert any(text.startswith("step 1/") for text in job.stderr)
    ranks = [process for process in psutil.Process(job.pid).children() if "photochrom" in process.cmdline()]
    return job, sorted(ranks, key=lambda process: int(process.environ()["RANK"]))


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_is_named_in_the_last_lines(shards: ShardSet, tmp_path: Path, victim: int) -> None:
    """Its host and how to resume, too; and all others have ended by then."""
    line = command(shards, tmp_path / "run", "--train.steps", "100000", "--checkpoint.every", "2", launcher=TWO_RANKS)
    job, ranks = started(line)
    wait_for_checkpoint(job, tmp_path / "run")
    killed = time.monotonic()
    ranks[victim].kill()
    stderr = job.communicate(timeout=60)[1]
    assert time.monotonic() - killed < 30
    assert job.returncode == 1
    saved = max(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    (survivor,) = [line for line in stderr.splitlines() if line.startswith("photochrom train: ")]
    assert survivor.startswith(f"photochrom train: rank {1 - victim} on {platform.node()} has lost another process in ")
    assert survivor.endswith(
        f"it was killed (out of memory?) or cannot be reached. Resume from {saved} with: {shlex.join(line)}"
    )
    report = stderr.splitlines()[-8:]  # torchrun's
    assert any(re.fullmatch(rf" *rank +: {victim} .*", text) for text in report), report
    assert any(re.fullmatch(rf" *host +: {socket.getfqdn()}", text) for text in report), report
    assert any(f"Signal 9 (SIGKILL) received by PID {ranks[victim].pid}" in text for text in report), report
    assert not psutil.pid_exists(ranks[1 - victim].pid)
    if victim:
        assert subprocess.run([*line, "--train.steps", str(int(saved[5:]) + 1)], capture_output=True).returncode == 0


def test_a_signal_to_one_rank_stops_all_at_the_same_step(shards: ShardSet, tmp_path: Path) -> None:
    job, ranks = started(command(shards, tmp_path / "run", "--train.steps", "100000", launcher=TWO_RANKS))
    ranks[1].send_signal(signal.SIGUSR1)
    rest = job.communicate(timeout=60)[1]
    stopped = re.search(r"photochrom train: stopped and saved at step (\d+)", rest)
    assert stopped, rest
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [f"step-{int(stopped[1]):08d}"]
    assert "has lost another process" not in rest


def test_a_loss_that_is_no_number_on_one_rank_stops_all(shards: ShardSet, tmp_path: Path) -> None:
    (tmp_path / "stumbling.py").write_text(
        "import os\nfrom photochrom.losses import L2, LossOutput\n"
        "class Stumbling(L2):\n"
        "    def forward(self, prediction, batch):\n"
        "        total = super().forward(prediction, batch).total\n"
        "        return LossOutput(total=total * (float('nan') if os.environ['RANK'] == '1' else 1))\n"
    )
    line = command(shards, tmp_path / "run", "--loss", "stumbling.Stumbling", launcher=TWO_RANKS)
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 1
    assert "became infinite or nan in step 0, with" in done.stderr
    assert [path.name for path in (tmp_path / "run").glob("nonfinite*")] == [
        "nonfinite-step-00000000-rank-1.safetensors"
    ]


@pytest.mark.parametrize("kind", ["fp16"])
def test_gradients_can_travel_compressed(two_ranks: Path, shards: ShardSet, tmp_path: Path, kind: str) -> None:
    done = train(shards, tmp_path / "run", "--train.grad_compression", kind, ranks=2)
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "run") == pytest.approx(losses(two_ranks), rel=5e-3)
    assert losses(tmp_path / "run") != losses(two_ranks)


@pytest.mark.parametrize(
    "said",
    [
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.213.87.3]:4129",
        "Application timeout caused pair closure",
        "Timed out waiting 8000ms for recv operation to complete",
        "NCCL communicator was aborted on rank 1.",
    ],
)
def test_what_backends_say_of_a_lost_process_is_explained(said: str, tmp_path: Path) -> None:
    run: Any = SimpleNamespace(
        accelerator=SimpleNamespace(num_processes=2, process_index=1), config=SimpleNamespace(out=tmp_path), step=7
    )
    with (
        pytest.raises(
            ValueError, match=r"rank 1 on .* has lost another process in step 7\. .* Resume from the beginning with: "
        ),
        explain_lost_process(run),
    ):
        raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="size mismatch"), explain_lost_process(run):
        raise RuntimeError("size mismatch")
    run.accelerator.num_processes = 1
    with pytest.raises(RuntimeError), explain_lost_process(run):
        raise RuntimeError(said)
