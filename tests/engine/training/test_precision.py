"""Precisions of one process: each verb has its own, whatever ran before it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from photochrom.engine import distributed
from photochrom.engine.cli import main
from photochrom.engine.configuration.config import Precision, TrainConfig
from photochrom.engine.distributed import make_accelerator, make_training_accelerator
from photochrom.engine.training import run as training_run
from photochrom.engine.training.run import train
from photochrom.engine.training.trainer import Trainer
from photochrom.pipelines import ShardSet


@pytest.mark.parametrize(("has_bf16", "precision"), [(True, "bf16"), (False, "fp32")])
def test_auto_trains_evaluates_and_trains_again_on_both_kinds_of_cpu(
    shards: ShardSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    has_bf16: bool,
    precision: str,
) -> None:
    monkeypatch.setattr(distributed, "_has_bf16", lambda: has_bf16)
    train = ["train", "--out", str(tmp_path / "run"), "--data.train", str(shards.root), "--data.size", "32"]
    train += ["--model.width", "0.0625", "--train.batch_size", "2", "--train.device", "cpu", "--log.trackers", "[]"]
    assert main([*train, "--train.steps", "1"]) == 0
    assert f"on the CPU in {precision}" in capsys.readouterr().err
    evaluate = ["evaluate", str(tmp_path / "run"), "--data", str(shards.root), "--out", str(tmp_path / "report")]
    assert main([*evaluate, "--device", "cpu", "--gallery", "1"]) == 0
    assert main([*train, "--train.steps", "2", "--train.precision", "fp32"]) == 0
    assert "on the CPU in fp32" in capsys.readouterr().err


def test_an_accelerator_has_its_own_precision() -> None:
    precisions: list[Precision] = ["bf16", "fp32", "bf16"]
    made = [make_accelerator("cpu", precision).mixed_precision for precision in precisions]
    assert made == ["bf16", "no", "bf16"]


@pytest.mark.gpu
def test_an_accelerator_has_its_own_device_and_kernels() -> None:
    assert make_training_accelerator(TrainConfig(device="cuda", precision="fp32")).device.type == "cuda"
    assert torch.backends.cudnn.allow_tf32
    assert make_accelerator("cpu", "fp32").device.type == "cpu"
    assert make_accelerator("cuda", "fp32").device.type == "cuda"
    assert not torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"


def losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["train/loss"] for line in lines if "train/loss" in line]


def fp16_on_the_cpu(config: TrainConfig) -> Any:
    """An accelerator as a GPU's: fp16 and a loss scaler, which Accelerate does not give a CPU."""
    accelerator = make_training_accelerator(config)
    AcceleratorState._shared_state["_mixed_precision"] = "fp16"
    accelerator.native_amp, accelerator.scaler = True, torch.amp.GradScaler("cpu")
    return accelerator


@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)]
)
def test_fp16_differs_by_the_steps_that_its_scaler_skips(
    configure, tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins at a scale of 65,536, which overflows until it has been halved often enough.

    A run in fp32 that skips the same updates has the same losses but for rounding.
    """
    scales: list[float] = []
    update = torch.amp.GradScaler.update

    def record(scaler: torch.amp.GradScaler) -> None:
        scales.append(scaler.get_scale())
        update(scaler)
        scales.append(scaler.get_scale())

    with monkeypatch.context() as patch:
        patch.setattr(torch.amp.GradScaler, "update", record)
        if device == "cpu":
            patch.setattr(training_run, "make_training_accelerator", fp16_on_the_cpu)
        precision = "fp32" if device == "cpu" else "fp16"
        train(configure(tmp_path / "fp16", train__precision=precision, train__device=device))
    skipped = [after < before for before, after in zip(scales[::2], scales[1::2], strict=True)]
    assert len(skipped) == 20
    assert skipped[0]
    to_skip, optimizer_step = iter(skipped), Trainer._optimizer_step

    def step_or_skip(trainer: Trainer, is_nonfinite: torch.Tensor) -> Any:
        return (torch.zeros(()), torch.tensor(False)) if next(to_skip) else optimizer_step(trainer, is_nonfinite)

    monkeypatch.setattr(Trainer, "_optimizer_step", step_or_skip)
    train(configure(tmp_path / "fp32"))
    assert losses(tmp_path / "fp16") == pytest.approx(losses(tmp_path / "fp32"), rel=0.02)
