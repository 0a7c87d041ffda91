"""Faults while a run lasts, and what is left of the run then."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from photochrom.engine.checkpoints.checkpoint import save_checkpoint
from photochrom.engine.cli import main
from photochrom.engine.configuration.config import ClassSpec
from photochrom.engine.training import loop
from photochrom.engine.training.run import train
from photochrom.engine.training.shutdown import SIGNALS, LostProcess, RunStopped, StopSignal
from photochrom.losses import L2, ColorLoss, LossOutput
from photochrom.pipelines import LabBatch, ShardSet
from safetensors.torch import load_file

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def assert_same_weights(one: Path, other: Path) -> None:
    a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert all(torch.equal(a[name], b[name]) for name in a)


def lines_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


class SometimesNan(L2):
    """A loss that is nan in some steps, for the whole batch or for one photograph of it."""

    def __init__(self, steps: list[int], sample: int | None = None) -> None:
        super().__init__()
        self.steps, self.sample, self.step = steps, sample, -1

    def forward(self, prediction, batch) -> LossOutput:
        self.step += len(batch) > 1
        total = super().forward(prediction, batch).total
        is_nan = self.sample is None or self.sample in batch.index.tolist()
        return LossOutput(total=total * (float("nan") if self.step in self.steps and is_nan else 1))


class InfiniteGradient(ColorLoss):
    """A finite loss with an infinite gradient."""

    def forward(self, prediction, batch) -> LossOutput:
        output = prediction.output
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient * float("inf"))
        return LossOutput(total=output.square().mean())


def sometimes_nan(*steps: int, sample: int | None = None) -> ClassSpec:
    return ClassSpec(class_path=f"{__name__}.SometimesNan", init_args={"steps": list(steps), "sample": sample})


def test_a_nan_loss_stops_the_run_before_the_weights_move(configure, tmp_path: Path) -> None:
    run, before = tmp_path / "run", tmp_path / "before"
    with pytest.raises(ValueError, match=r"became infinite or nan in step 12, with .*--optim\.lr.*max_nonfinite_steps"):
        train(configure(run, loss=sometimes_nan(12), log__every=5, checkpoint__every=7))
    assert checkpoints(run) == ["step-00000007"]
    assert not (run / "model.safetensors").exists()
    kept = load_file(run / "nonfinite-step-00000012-rank-0.safetensors")
    assert kept["L"].shape == (4, 1, 32, 32)
    assert kept["ab"].shape == (4, 2, 32, 32)
    train(configure(before, train__steps=12))
    sample = ShardSet.open(configure(run).data.train)
    assert {sample.sample(i).key for i in kept["index"].tolist()}


def test_the_photograph_is_named(configure, shards: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"in step \d+, with {shards.sample(3).key}; the weights stayed"):
        train(configure(tmp_path / "run", loss=sometimes_nan(*range(20), sample=3)))


def test_an_infinite_gradient_stops_the_run(configure, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the loss or its gradients became infinite or nan in step 0, with"):
        train(configure(tmp_path / "run", loss=ClassSpec(class_path=f"{__name__}.InfiniteGradient")))
    assert checkpoints(tmp_path / "run") == []


def test_some_steps_can_be_skipped(configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are skipped, with what they did to the statistics of BatchNorm; more of them in a row stop the run."""
    settings = {"train__max_nonfinite_steps": 2, "train__steps": 9, "log__every": 3}
    train(configure(tmp_path / "run", loss=sometimes_nan(2, 5, 6), **settings))
    messages = [line for line in capsys.readouterr().err.splitlines() if line.endswith("the step was skipped")]
    assert [line.partition(" in step ")[2][0] for line in messages] == ["2", "5", "6"]
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "run" / "model.safetensors").values())
    lines = lines_of(tmp_path / "run")
    assert [line["step"] for line in lines] == [3, 6, 9]
    train(configure(tmp_path / "sound", train__steps=2))
    sound = [line["train/loss"] for line in lines_of(tmp_path / "sound")]
    assert lines[0]["train/loss"] == pytest.approx(sum(sound) / 2), "the mean of what counted"
    with pytest.raises(ValueError, match="became infinite or nan in step 4, with"):
        train(configure(tmp_path / "other", loss=sometimes_nan(2, 3, 4), **settings))


def test_pixels_that_are_nan_leave_no_trace(configure, tmp_path: Path) -> None:
    """They reach the statistics of BatchNorm, in the step and in the search for the photographs."""
    settings = {"train__max_nonfinite_steps": 2, "train__steps": 3, "log__every": 1}
    original = loop.endless

    def endless(loader: Any) -> Iterator[LabBatch]:
        for step, batch in enumerate(original(loader)):
            yield LabBatch(L=batch.L * (float("nan") if step == 1 else 1), ab=batch.ab, index=batch.index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "endless", endless)
        train(configure(tmp_path / "run", **settings))
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "run" / "model.safetensors").values())
    assert [line.get("steps/skipped") for line in lines_of(tmp_path / "run")] == [None, 1, None]


def test_steps_of_which_none_counts_are_logged_without_figures(configure, tmp_path: Path) -> None:
    settings = {"loss": sometimes_nan(0, 1, 2), "train__max_nonfinite_steps": 5, "log__every": 2}
    train(configure(tmp_path / "run", train__steps=6, **settings))
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    lines = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    assert [line["train/loss"] is None for line in lines] == [True, False, False]
    assert [line.get("steps/skipped") for line in lines] == [2, 1, None]


def test_a_skipped_step_leaves_the_weights_alone(configure, tmp_path: Path) -> None:
    settings = {
        "train__max_nonfinite_steps": 5,
        "loss": sometimes_nan(3, 4),
        "checkpoint__every": 1,
        "checkpoint__keep": 9,
    }
    train(configure(tmp_path / "run", train__steps=5, **settings))
    kept = [load_file(tmp_path / "run" / "checkpoints" / f"step-0000000{i}" / "model.safetensors") for i in (3, 4, 5)]
    for name, tensor in kept[0].items():
        assert torch.equal(tensor, kept[2][name]), name
    state = load_file(tmp_path / "run" / "checkpoints" / "step-00000005" / "training.safetensors")
    assert {float(value) for name, value in state.items() if name.endswith("/step")} == {3.0}


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Calls a function when a run reports a step."""

    def call(step: int, act: Callable[[], None]) -> None:
        report = loop.report

        def reported(run: loop.Run) -> None:
            report(run)
            if run.step == step:
                act()

        monkeypatch.setattr(loop, "report", reported)

    return call


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_saves_and_the_run_resumes_exactly(
    configure, trained: Path, at_step, tmp_path: Path, number: signal.Signals
) -> None:
    def ask() -> None:
        signal.raise_signal(number)
        time.sleep(0.2)  # the thread that listens

    at_step(13, ask)
    with pytest.raises(RunStopped, match="stopped and saved at step 14: the same command resumes") as stopped:
        train(configure(tmp_path / "run"))
    assert stopped.value.number == number
    assert checkpoints(tmp_path / "run") == ["step-00000010", "step-00000014"]
    assert not (tmp_path / "run" / "model.safetensors").exists()
    train(configure(tmp_path / "run"))
    assert_same_weights(tmp_path / "run", trained)
    assert [line["step"] for line in lines_of(tmp_path / "run")] == list(range(1, 21))


def test_a_signal_that_is_ignored_stays_so(configure, at_step, tmp_path: Path) -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        at_step(3, lambda: (signal.raise_signal(signal.SIGHUP), time.sleep(0.2)))
        assert train(configure(tmp_path / "run", train__steps=6))["steps"] == 6
    finally:
        signal.signal(signal.SIGHUP, before)


def test_signals_are_handled_as_before_after_a_lost_process() -> None:
    """As a notebook needs it, which lives on."""
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(LostProcess), StopSignal().installed(verbose=False):
        raise LostProcess("gone")
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_signal_ends_a_validation(configure, at_step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def ask_once(*_: object) -> None:
        if not asked:
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.2)
        asked.append(1)

    original = torch.Tensor.ceil  # which only the scores of a validation take
    monkeypatch.setattr(torch.Tensor, "ceil", lambda tensor: (ask_once(), original(tensor))[1])
    config = configure(tmp_path / "run")
    with pytest.raises(RunStopped, match="stopped and saved at step 10"):
        train(configure(tmp_path / "run", data__val=config.data.train, train__batch_size=2))
    assert len(asked) == 2, "the model's and grey's, of one batch of five"
    assert checkpoints(tmp_path / "run") == ["step-00000010"]


@pytest.fixture
def running(shards: ShardSet, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run of its own, in its third step."""
    command = [sys.executable, "-m", "photochrom", "train", "--out", str(tmp_path / "run")]
    command += ["--data.train", str(shards.root), "--data.size", "32", "--model.width", "0.0625", "--log.every", "1"]
    command += ["--train.steps", "100000", "--train.batch_size", "4", "--train.device", "cpu", "--loader.threads", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 3/"):
            break
    yield process
    process.kill()
    process.communicate()


def test_the_exit_code_says_which_signal(running: subprocess.Popen[str], tmp_path: Path) -> None:
    running.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    running.send_signal(signal.SIGTERM)  # as launchers repeat it
    rest = running.communicate(timeout=60)[1]
    assert running.returncode == 128 + signal.SIGTERM
    last = rest.splitlines()[-1]
    assert last.startswith("photochrom train: stopped and saved at step ")
    assert checkpoints(tmp_path / "run") == [f"step-{int(last.split()[7].rstrip(':')):08d}"]
    assert "Traceback" not in rest


def test_a_second_signal_leaves_at_once(running: subprocess.Popen[str], tmp_path: Path) -> None:
    """Even if the process that trains never gets to notice the first."""
    running.send_signal(signal.SIGSTOP)
    running.send_signal(signal.SIGTERM)
    running.send_signal(signal.SIGCONT)
    os.kill(running.pid, signal.SIGTERM)
    assert running.wait(timeout=60) == 128 + signal.SIGTERM


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(
    configure, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_space(root: Path, step: int, **settings: Any) -> Path:
        if step == 10:
            raise OSError(28, "No space left on device", str(root))
        return save_checkpoint(root, step, **settings)

    monkeypatch.setattr("photochrom.engine.training.async_checkpoint.save_checkpoint", no_space)
    settings = {"checkpoint__every": 5, "checkpoint__keep": 9}
    train(configure(tmp_path / "run", **settings))
    assert checkpoints(tmp_path / "run") == ["step-00000005", "step-00000015", "step-00000020"]
    assert_same_weights(tmp_path / "run", trained)
    warning = "the checkpoint of step 10 was not saved ([Errno 28] No space left on device:"
    assert warning in capsys.readouterr().err
    with pytest.raises(OSError, match=r"the checkpoint of step 10 was not saved.*the last one is step-00000005: make"):
        train(configure(tmp_path / "other", **settings, checkpoint__on_error="stop"))
    assert checkpoints(tmp_path / "other") == ["step-00000005"]


@pytest.fixture
def limit_file_size() -> Iterator[Callable[[int], None]]:
    """Sets the size in bytes that files of this process can have; Python ignores SIGXFSZ."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("limit", "code"), [(700_000, 0), (100_000, 1)])
def test_files_that_cannot_grow_cost_what_they_would_have_held(
    shards: ShardSet,
    tmp_path: Path,
    limit_file_size: Callable[[int], None],
    capsys: pytest.CaptureFixture[str],
    limit: int,
    code: int,
) -> None:
    """Written by the libraries themselves: the moments do not fit, or the model neither."""
    out = tmp_path / "run"
    arguments = ["train", "--out", str(out), "--data.train", str(shards.root), "--data.size", "32", "--log.every", "2"]
    arguments += ["--model.width", "0.0625", "--train.steps", "4", "--train.batch_size", "4", "--train.device", "cpu"]
    limit_file_size(limit)
    assert main([*arguments, "--checkpoint.every", "2", "--log.trackers", "[]"]) == code
    messages = capsys.readouterr().err
    for step in (2, 4):
        assert f"the checkpoint of step {step} was not saved (" in messages
    assert checkpoints(out) == []
    assert (out / "model.safetensors").exists() == (code == 0)
    if code:
        assert messages.splitlines()[-1].startswith(f"photochrom train: {out}/model.safetensors cannot be written, ")


def test_a_run_that_cannot_save_when_it_is_stopped_fails(
    configure, at_step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(root: Path, step: int, **_: Any) -> Path:
        raise OSError(28, "No space left on device", str(root))

    monkeypatch.setattr("photochrom.engine.training.async_checkpoint.save_checkpoint", no_space)
    at_step(3, lambda: (signal.raise_signal(signal.SIGTERM), time.sleep(0.2)))
    with pytest.raises(OSError, match=r"the checkpoint of step 4 was not saved.*there is none yet"):
        train(configure(tmp_path / "run"))


def test_a_disk_without_room_is_refused(configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr("photochrom.engine.training.checks.shutil.disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match=r"a checkpoint takes 2 MB, and .* has 1 MB left: make room, or name another"):
        train(configure(tmp_path / "run"))


def test_half_written_checkpoints_of_a_killed_run_are_removed(configure, tmp_path: Path) -> None:
    half = tmp_path / "run" / "checkpoints" / ".step-00000007.tmp"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    train(configure(tmp_path / "run", train__steps=2))
    assert checkpoints(tmp_path / "run") == ["step-00000002"]


def test_checkpoints_of_every_so_many_steps_stay(configure, tmp_path: Path) -> None:
    train(configure(tmp_path / "run", checkpoint__every=2, checkpoint__keep=2, checkpoint__keep_every=8))
    assert checkpoints(tmp_path / "run") == [f"step-{step:08d}" for step in (8, 16, 18, 20)]


class Broken(GeneralTracker):
    """A service that is there and then is not."""

    name, requires_logging_directory = "broken", False
    logged = 0

    def __init__(self, project: str) -> None:
        super().__init__()

    @property
    def tracker(self) -> None:
        return None

    def log(self, values: dict, step: int | None = None, **kwargs: Any) -> None:
        type(self).logged += 1
        if step == 3:
            raise ConnectionError("the service is gone\nat all")


@pytest.fixture
def with_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "broken", Broken)
    monkeypatch.setattr("photochrom.engine.training.trackers.get_available_trackers", lambda: ["tensorboard", "broken"])
    monkeypatch.setattr(Broken, "logged", 0)


def test_a_broken_tracker_stops_nothing(
    configure, with_broken: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = train(configure(tmp_path / "run", log__trackers=["broken"], train__steps=6))
    assert summary["steps"] == 6
    assert Broken.logged == 3
    messages = [line for line in capsys.readouterr().err.splitlines() if line.startswith("the tracker")]
    assert messages == ["the tracker broken has failed (log: the service is gone): training continues without it"]
    assert not (tmp_path / "run" / "tensorboard").exists()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("tensorbord", r"log.trackers has 'tensorbord', which is unknown: known are .*wandb"),
        ("wandb", r"log.trackers has 'wandb', which is not installed: pip install wandb"),
    ],
)
def test_a_tracker_that_is_not_there_is_refused(configure, tmp_path: Path, name: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        train(configure(tmp_path / "run", log__trackers=[name]))
    assert not (tmp_path / "run").exists()


def test_a_log_that_cannot_be_written_stops_nothing(
    configure, at_step, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    at_step(3, lambda: ((run / "metrics.jsonl").unlink(), (run / "metrics.jsonl").mkdir()))
    assert train(configure(run, train__steps=6))["steps"] == 6
    messages = [line for line in capsys.readouterr().err.splitlines() if "metrics or pictures" in line]
    assert len(messages) == 1
