"""Precisions of one process: each verb has its own, whatever ran before it."""

from pathlib import Path

import pytest
import torch
from photochrom.engine import distributed
from photochrom.engine.cli import main
from photochrom.engine.configuration.config import Precision, TrainConfig
from photochrom.engine.distributed import make_accelerator, make_training_accelerator
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
