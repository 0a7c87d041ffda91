"""Several processes, launched as a user does."""

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
from dataclasses import dataclass
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

ADVICE = "'photochrom verify --decode' lists all such photographs; pack again, into a new folder"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")

# Several runs in the same two processes: to start two takes longer than to train.
SCRIPT = """
import json, sys, warnings
from contextlib import nullcontext
from unittest.mock import patch
from photochrom.engine.commands.train import parse
from photochrom.engine.training.run import train
from torch.nn.parallel import DistributedDataParallel as Parallel
sync_buffers = Parallel._sync_buffers
warnings.filterwarnings("error", message=".*broadcast_buffers")
always = patch.object(Parallel, "broadcast_buffers", property(lambda self: True, lambda self, value: None), create=True)
for argv in json.loads(sys.argv[1]):
    broadcasts = argv[2].endswith("broadcast")
    with always if broadcasts else nullcontext(), patch.object(Parallel, "_sync_buffers", autospec=True) as sync:
        sync.side_effect = sync_buffers
        summary = train(parse(argv[1:]))
    assert sync.call_count == (3 if broadcasts else 0)
    assert summary["steps"] in (3, 6) or summary["best"]["step"] + 2 == summary["steps"]
"""

FAILING_LOSS = """
import os
from photochrom.losses import L2, LossOutput
class NanOnRankOne(L2):
    def forward(self, prediction, batch):
        total = super().forward(prediction, batch).total
        return LossOutput(total=total * (float("nan") if os.environ["RANK"] == "1" else 1))
"""


def arguments(shards: ShardSet, out: Path, *overrides: str) -> list[str]:
    """The arguments of a run of 6 steps; an override counts more."""
    train = ["train", "--out", str(out), "--data.train", str(shards.root), "--data.size", "32"]
    train += ["--model.width", "0.0625", "--train.steps", "6", "--train.batch_size", "8", "--train.device", "cpu"]
    train += ["--train.precision", "fp32"]  # what is equal in fp32 is not in bf16, which auto takes where a CPU has it
    return [*train, "--loader.threads", "1", "--optim.lr", "1e-4", "--log.every", "1", *overrides]


def command(shards: ShardSet, out: Path, *overrides: str, launcher: Sequence[str] = ()) -> list[str]:
    """The command line of a run."""
    return [sys.executable, *launcher, "-m", "photochrom", *arguments(shards, out, *overrides)]


def launch(words: list[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, capture_output=True, text=True, env=environment, timeout=240, cwd=cwd)


def start(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


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
    """Waits until training continues after an intact checkpoint; checkpoints are written in the background."""
    assert job.stderr is not None
    for line in job.stderr:
        if line.startswith("step ") and any((run / "checkpoints").glob("step-*")):
            return
    raise AssertionError("it ended before it had saved anything")


PATIENCE = ["--log.validate_every", "1", "--checkpoint.best", "loss", "--train.patience", "2", "--train.steps", "20"]
PATIENCE += ["--optim", "RMSprop", "--optim.lr", "0.01"]


@dataclass
class TwoRanks:
    """The runs of two ranks, and their messages."""

    folder: Path
    stderr: str

    @property
    def run(self) -> Path:
        return self.folder / "run"


@pytest.fixture(scope="module")
def one_rank(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one rank that accumulates over the two halves of each batch."""
    out = tmp_path_factory.mktemp("one") / "run"
    assert main(arguments(shards, out, "--train.grad_accum_steps", "2")) == 0
    return out


@pytest.fixture(scope="module")
def two_ranks(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> TwoRanks:
    """Runs of two ranks with one half of each batch each; the last one fails."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "script.py").write_text(SCRIPT)
    (folder / "own_losses.py").write_text(FAILING_LOSS)
    runs = [
        arguments(shards, folder / "run", "--data.val", str(shards.root), "--log.validate_every", "6"),
        arguments(shards, folder / "half", "--train.steps", "3"),
        arguments(shards, folder / "broadcast", "--train.steps", "3"),
        arguments(shards, folder / "four-parts", "--train.steps", "3", "--train.grad_accum_steps", "2"),
        arguments(shards, folder / "compressed", "--train.grad_compression", "fp16"),
        arguments(shards, folder / "from-weights", "--model.init", str(folder / "half"), "--train.steps", "3"),
        arguments(shards, folder / "patience", "--data.val", str(shards.root), *PATIENCE),
        arguments(shards, folder / "nan", "--loss", "own_losses.NanOnRankOne"),
    ]
    done = launch([sys.executable, *TORCHRUN, "script.py", json.dumps(runs)], cwd=folder)
    assert done.returncode == 1
    assert (folder / "compressed" / "summary.json").exists(), done.stderr
    return TwoRanks(folder, done.stderr)


def test_two_ranks_train_like_one_rank(one_rank: Path, two_ranks: TwoRanks) -> None:
    assert_same_weights(one_rank, two_ranks.run, 1e-5)
    assert losses(two_ranks.run) == pytest.approx(losses(one_rank), rel=1e-5)


def test_without_broadcast_buffers_training_is_the_same(two_ranks: TwoRanks) -> None:
    """Bit for bit, with the running statistics that are saved."""
    ours, torchs = two_ranks.folder / "half", two_ranks.folder / "broadcast"
    assert losses(ours) == losses(torchs)
    weights, expected = load_file(ours / "model.safetensors"), load_file(torchs / "model.safetensors")
    assert {name: tensor.tolist() for name, tensor in weights.items()} == {
        name: tensor.tolist() for name, tensor in expected.items()
    }


def test_ranks_and_micro_batches_multiply(two_ranks: TwoRanks, shards: ShardSet, tmp_path: Path) -> None:
    # 3 steps: Adam enlarges what rounding makes of gradients next to nothing, step by step.
    assert main(arguments(shards, tmp_path / "run", "--train.grad_accum_steps", "4", "--train.steps", "3")) == 0
    assert_same_weights(tmp_path / "run", two_ranks.folder / "four-parts", 1e-5)


def test_the_whole_batch_at_once_is_something_else(one_rank: Path, shards: ShardSet, tmp_path: Path) -> None:
    """BatchNorm sees other photographs: or else the tests above would prove nothing."""
    assert main(arguments(shards, tmp_path / "run")) == 0
    with pytest.raises(AssertionError):
        assert_same_weights(one_rank, tmp_path / "run", 1e-5)


def test_a_run_of_two_ranks_resumes_on_one(two_ranks: TwoRanks, shards: ShardSet, tmp_path: Path) -> None:
    """3 of 6 steps on two ranks, the other 3 on one."""
    run = Path(shutil.copytree(two_ranks.folder / "half", tmp_path / "run"))
    assert main(arguments(shards, run, "--train.grad_accum_steps", "2")) == 0
    assert_same_weights(two_ranks.run, run, 1e-5)


def test_two_ranks_lose_patience_at_the_same_step(two_ranks: TwoRanks, shards: ShardSet) -> None:
    """At a rate at which the network does not get better step by step, with an optimizer that is not fused."""
    summary = json.loads((two_ranks.folder / "patience" / "summary.json").read_text())
    assert summary["best"]["step"] + 2 == summary["steps"] < 20
    assert (two_ranks.folder / "patience" / "best" / "model.safetensors").exists()


def test_two_ranks_begin_from_the_same_weights(two_ranks: TwoRanks, shards: ShardSet, tmp_path: Path) -> None:
    settings = ["--model.init", str(two_ranks.folder / "half"), "--train.grad_accum_steps", "2", "--train.steps", "3"]
    assert main(arguments(shards, tmp_path / "run", *settings)) == 0
    assert_same_weights(tmp_path / "run", two_ranks.folder / "from-weights", 1e-5)


def test_validation_on_two_ranks_scores_the_saved_model_on_every_photograph(
    two_ranks: TwoRanks, shards: ShardSet
) -> None:
    lines = [json.loads(line) for line in (two_ranks.run / "metrics.jsonl").read_text().splitlines()]
    (validation,) = [line for line in lines if "val/rmse_ab" in line]
    assert validation["step"] == 6
    loader = DaliLoader(shards, batch_size=9, size=32, train=False)
    metrics = score(ModelPredictor(photochrom.load(two_ranks.run), L2()), loader)
    assert {name: validation[f"val/{name}"] for name in metrics} == pytest.approx(metrics, rel=1e-4)


def test_gradients_can_be_compressed(two_ranks: TwoRanks) -> None:
    compressed = losses(two_ranks.folder / "compressed")
    assert compressed == pytest.approx(losses(two_ranks.run), rel=5e-3)
    assert compressed != losses(two_ranks.run)


def test_a_loss_that_is_nan_on_one_rank_stops_all(two_ranks: TwoRanks) -> None:
    assert "became infinite or nan in step 0, with" in two_ranks.stderr
    kept = [path.name for path in (two_ranks.folder / "nan").glob("nonfinite*")]
    assert kept == ["nonfinite-step-00000000-rank-1.safetensors"]


@pytest.mark.slow
def test_accelerate_launches_what_torchrun_does(two_ranks: TwoRanks, shards: ShardSet, tmp_path: Path) -> None:
    """--multi_gpu, as the README says: the launcher starts the same processes where there are only CPUs."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--num_processes", "2"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(port)]
    done = launch(command(shards, tmp_path / "run", launcher=launcher))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'run' / 'model.safetensors'}\n", "only the main process prints"
    assert_same_weights(two_ranks.run, tmp_path / "run", 1e-5)


def test_settings_of_accelerate_that_a_run_does_not_know_are_refused(
    shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")  # as `accelerate launch` sets it
    assert main(arguments(shards, tmp_path / "run")) == 1
    assert "Accelerate is configured to accumulate gradients over 4 steps" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_that_is_killed_resumes_by_the_same_command(shards: ShardSet, tmp_path: Path) -> None:
    out = tmp_path / "run"
    overrides = ["--train.grad_accum_steps", "2", "--checkpoint.every", "2"]
    process = start(command(shards, out, *overrides, "--train.steps", "100000"))
    wait_for_checkpoint(process, out)
    process.kill()
    process.communicate(timeout=60)
    steps = str(max(int(path.name[5:]) for path in (out / "checkpoints").glob("step-*")) + 2)
    for folder in (out, tmp_path / "unbroken"):
        assert main(arguments(shards, folder, *overrides, "--train.steps", steps)) == 0
    assert_same_weights(tmp_path / "unbroken", out, 0)


def test_a_photograph_that_one_rank_cannot_decode_stops_all(shards: ShardSet, tmp_path: Path) -> None:
    root = Path(shutil.copytree(shards.root, tmp_path / "damaged"))
    damaged = ShardSet.open(root)
    offset, size = damaged.byte_ranges[4].tolist()
    with open(damaged.tar(4), "r+b") as tar:
        tar.seek(offset)
        tar.write(bytes(size))
    done = launch(command(damaged, tmp_path / "run", launcher=TORCHRUN))  # and not after the time limit
    assert done.returncode == 1
    sentences = [line for line in done.stderr.splitlines() if line.startswith("photochrom train:")]
    reasons = [sentence for sentence in sentences if "has lost another process in step" not in sentence]
    assert reasons == [
        f"photochrom train: {damaged.describe_sample(4)} cannot be read any more (not an image): {ADVICE}"
    ]
    report = done.stderr[done.stderr.index("Root Cause") :]  # torchrun's
    assert f"{damaged.describe_sample(4)} cannot be read any more (not an image)" in report


def start_training(words: list[str]) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """Starts a job, waits for its first step, and returns it with its processes by rank."""
    job = start(words)
    assert job.stderr is not None
    assert any(text.startswith("step 1/") for text in job.stderr)
    ranks = [process for process in psutil.Process(job.pid).children() if "photochrom" in process.cmdline()]
    return job, sorted(ranks, key=lambda process: int(process.environ()["RANK"]))


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_is_named_in_the_last_lines(shards: ShardSet, tmp_path: Path, victim: int) -> None:
    """Its host and how to resume, too; and all others have ended by then."""
    words = command(shards, tmp_path / "run", "--train.steps", "100000", "--checkpoint.every", "2", launcher=TORCHRUN)
    job, ranks = start_training(words)
    wait_for_checkpoint(job, tmp_path / "run")
    killed_at = time.monotonic()
    ranks[victim].kill()
    stderr = job.communicate(timeout=60)[1]
    assert time.monotonic() - killed_at < 30
    assert job.returncode == 1
    saved = max(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert "photochrom train: rank" in stderr, stderr
    (survivor,) = [line for line in stderr.splitlines() if line.startswith("photochrom train: ")]
    assert survivor.startswith(f"photochrom train: rank {1 - victim} on {platform.node()} has lost another process in ")
    assert "it was killed (out of memory?) or cannot be reached" in survivor
    assert survivor.endswith(f"Resume from {saved} with: {shlex.join(words)}")
    report = stderr.splitlines()[-8:]  # torchrun's
    assert any(re.fullmatch(rf" *rank +: {victim} .*", line) for line in report), report
    assert any(re.fullmatch(rf" *host +: {socket.getfqdn()}", line) for line in report), report
    assert any(f"Signal 9 (SIGKILL) received by PID {ranks[victim].pid}" in line for line in report), report
    assert not psutil.pid_exists(ranks[1 - victim].pid)
    if victim:
        assert launch([*words, "--train.steps", str(int(saved[5:]) + 1)]).returncode == 0


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all_at_the_same_step(shards: ShardSet, tmp_path: Path) -> None:
    words = command(shards, tmp_path / "run", "--train.steps", "100000", launcher=TORCHRUN)
    job, ranks = start_training(words)
    ranks[1].send_signal(signal.SIGUSR1)
    rest = job.communicate(timeout=60)[1]
    stopped = re.search(r"photochrom train: stopped and saved at step (\d+)", rest)
    assert stopped, rest
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [f"step-{int(stopped[1]):08d}"]
    assert "has lost another process" not in rest


@pytest.mark.slow
def test_a_rank_without_the_others_leaves_within_the_timeout() -> None:
    """torch tries twice to reach the launcher, with that timeout each, and waits in between."""
    code = "from photochrom.engine.distributed import make_accelerator\nprint(flush=True)\n"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    environment = os.environ | {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", code + "make_accelerator('cpu', 'fp32', timeout=4)"]
    with subprocess.Popen(words, env=environment, stdout=-1, stderr=-1, text=True) as rank:
        assert rank.stdout
        rank.stdout.readline()
        began = time.monotonic()
        stderr = rank.communicate(timeout=60)[1]
    assert time.monotonic() - began < 7
    assert rank.returncode == 1
    assert stderr.splitlines()[-1].endswith("cannot be reached in 4 s: start again")


@pytest.mark.slow
def test_a_refusal_ends_all_ranks_with_1(shards: ShardSet, tmp_path: Path) -> None:
    """Without torchrun, which ends all; a process group that is not destroyed can abort them."""
    (tmp_path / "diary.txt").touch()
    for _ in range(3):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = str(server.getsockname()[1])
        shared = os.environ | {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks = [
            subprocess.Popen(command(shards, tmp_path), env=shared | {"RANK": rank, "LOCAL_RANK": rank}, stderr=-1)
            for rank in "01"
        ]
        told = [rank.communicate(timeout=90)[1].decode() for rank in ranks]
        assert [rank.returncode for rank in ranks] == [1, 1], told
        assert told[0].endswith("holds no run: name a new folder\n")
        assert told[1] == ""


@pytest.mark.parametrize(
    "message",
    [
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.213.87.3]:4129",
        "Application timeout caused pair closure",
        "Timed out waiting 8000ms for recv operation to complete",
        "NCCL communicator was aborted on rank 1.",
    ],
)
def test_the_errors_of_backends_about_a_lost_process_are_explained(message: str, tmp_path: Path) -> None:
    run: Any = SimpleNamespace(
        accelerator=SimpleNamespace(num_processes=2, process_index=1), config=SimpleNamespace(out=tmp_path), step=7
    )
    expected = r"rank 1 on .* has lost another process in step 7\. .* Resume from the beginning with: .*python"
    with pytest.raises(ValueError, match=expected), explain_lost_process(run):
        raise RuntimeError(message)
    with pytest.raises(RuntimeError, match="size mismatch"), explain_lost_process(run):
        raise RuntimeError("size mismatch")
    run.accelerator.num_processes = 1
    with pytest.raises(RuntimeError), explain_lost_process(run):
        raise RuntimeError(message)
