"""Several processes, launched as a user would."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import photochrom
import pytest
import torch
from photochrom.engine.score import score
from photochrom.losses import L2
from photochrom.pipelines import DaliLoader, ShardSet
from safetensors.torch import load_file

MEND = "'photochrom verify' names what has changed since it was packed; pack into a new folder"
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def command(shards: ShardSet, out: Path, *overrides: str, launcher: Sequence[str] = ()) -> list[str]:
    """What a user would type; a later override counts."""
    train = ["photochrom", "train", "--out", str(out), "--data.train", str(shards.root), "--data.size", "32"]
    train += ["--model.width", "0.0625", "--train.steps", "6", "--train.batch_size", "8", "--train.device", "cpu"]
    train += ["--loader.threads", "1", "--optim.lr", "1e-4", "--log.every", "1", *overrides]
    return [sys.executable, *launcher, "-m", *train]


def train(
    shards: ShardSet, out: Path, *overrides: str, ranks: int = 1, launcher: Sequence[str] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    if ranks > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    line = command(shards, out, *overrides, launcher=launcher)
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


@pytest.fixture(scope="module")
def one_rank(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rank that accumulates over the two halves of each batch."""
    out = tmp_path_factory.mktemp("one") / "run"
    done = train(shards, out, "--train.accumulate", "2")
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
    assert train(shards, tmp_path / "four", "--train.accumulate", "4").returncode == 0
    assert train(shards, tmp_path / "two-by-two", "--train.accumulate", "2", ranks=2).returncode == 0
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


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_goes_on_by_the_same_command(
    shards: ShardSet, tmp_path: Path, how: signal.Signals
) -> None:
    out = tmp_path / "run"
    overrides = ["--train.accumulate", "2", "--checkpoint.every", "2"]
    process = subprocess.Popen(
        command(shards, out, *overrides, "--train.steps", "100000"),
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 3/"):
            process.send_signal(how)
            break
    rest = process.communicate(timeout=60)[1]
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert rest.endswith("which is saved: the same command goes on from there\n")
    saved = [int(path.name[5:]) for path in (out / "checkpoints").glob("step-*")]
    assert saved
    steps = str(max(saved) + 2)
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
    """Stopped at step 3 of 6 on two ranks; the other three are one rank's."""
    assert train(shards, tmp_path / "run", "--train.steps", "3", ranks=2).returncode == 0
    assert train(shards, tmp_path / "run", "--train.accumulate", "2").returncode == 0
    assert_same_weights(two_ranks, tmp_path / "run", 1e-5)


def test_validation_on_two_ranks_scores_what_is_saved_on_every_photograph(two_ranks: Path, shards: ShardSet) -> None:
    lines = [json.loads(line) for line in (two_ranks / "metrics.jsonl").read_text().splitlines()]
    (validation,) = [line for line in lines if "val/rmse_ab" in line]
    assert validation["step"] == 6
    loader = DaliLoader(shards, batch_size=9, size=32, train=False)
    figures = score(photochrom.load(two_ranks), L2(), loader).summary()
    assert {name: validation[f"val/{name}"] for name in figures} == pytest.approx(figures, rel=1e-4)


def test_a_batch_that_does_not_divide_is_refused(shards: ShardSet, tmp_path: Path) -> None:
    done = train(shards, tmp_path / "run", "--train.batch_size", "9", ranks=2)
    assert done.returncode != 0
    assert "train.batch_size=9 does not divide into 2 processes x train.accumulate=1 equal parts: try 10" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("backend", ["dali", "torch"])
def test_a_photograph_that_one_rank_cannot_decode_stops_all(shards: ShardSet, tmp_path: Path, backend: str) -> None:
    root = Path(shutil.copytree(shards.root, tmp_path / "damaged"))
    damaged = ShardSet.open(root)
    offset, size = damaged.places[4].tolist()
    with open(damaged.tar(4), "r+b") as tar:
        tar.seek(offset)
        tar.write(bytes(size))
    done = train(damaged, tmp_path / "run", "--loader.backend", backend, ranks=2)  # and not after the time limit
    assert done.returncode == 1
    sentences = [line for line in done.stderr.splitlines() if line.startswith("photochrom train:")]
    assert sentences == [f"photochrom train: {damaged.place(4)} cannot be read any more (not an image): {MEND}"]
