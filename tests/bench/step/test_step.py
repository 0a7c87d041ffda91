import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from photochrom.bench.command import main
from photochrom.bench.common.options import parse_run
from photochrom.bench.common.timing import Clock
from photochrom.bench.step.command import StepOptions
from photochrom.bench.step.measurement import CONFIGURED, PARTS, Step, apply_variant, max_batch, measure
from photochrom.engine.configuration.config import ClassSpec, DataConfig, ModelSpec, RunConfig, TrainConfig
from photochrom.engine.configuration.run_parser import _recipes
from photochrom.engine.training.flops import flops_per_image
from photochrom.models import VGGColorizer
from photochrom.pipelines import ShardSet, SyntheticLoader, TorchLoader
from torch._dynamo.testing import CompileCounter

SMALL = ["step", "--config", "l2", "--data.size", "32", "--model.width", "0.0625", "--train.device", "cpu"]


def config(loss: str = "L2", head: str = "ab") -> RunConfig:
    return RunConfig(
        out=Path("unused"),
        data=DataConfig(train="unused", size=32),
        model=ModelSpec(class_path="VGGColorizer", init_args={"width": 0.0625, "head": head}),
        loss=ClassSpec(class_path=loss, init_args={}),
        train=TrainConfig(batch_size=2, device="cpu", precision="fp32"),
    )


def test_variants_take_turns_at_the_same_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Step, "seconds", lambda self: 1e-9)
    out = tmp_path / "step.json"
    variants = ["fp32", "fp32 channels_last", "fp32 space_to_batch activation_checkpointing", "fp16"]
    command = [*SMALL, "--seconds", "0.1", "--batch-sizes", "2", "4", "--variants", *variants]
    assert main([*command, "--log.peak_tflops", "0.1", "--train.precision", "fp32", "--out", str(out)]) == 0
    figures = json.loads(out.read_text())
    measured = [*variants[:3], CONFIGURED]
    assert [(row["variant"], row["batch_size"]) for row in figures["rows"]] == [
        (variant, size) for size in (2, 4) for variant in measured
    ]
    assert figures["skipped"] == {
        f"fp16, batches of {size}": "precision=fp16 needs a GPU: use fp32 or bf16 on a CPU" for size in (2, 4)
    }
    flops = flops_per_image(VGGColorizer(width=0.0625), 32, torch.device("cpu"))
    for row in figures["rows"]:
        assert 0 < row["min(img/s)"] <= row["median(img/s)"] <= row["max(img/s)"]
        assert row["num_rounds"] >= 3
        assert row["mfu(%)"] == pytest.approx(100 * flops * row["median(img/s)"] / 1e11)
        assert all(row[f"{part}(ms)"] > 0 for part in PARTS)
    assert figures["rows"][0]["ratio"] == figures["rows"][4]["ratio"] == 1
    said = capsys.readouterr().out
    assert figures["verdict"] in said
    assert "not measured: fp16, batches of 2: precision=fp16 needs a GPU" in said


def test_steps_too_slow_for_the_time_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Step, "seconds", lambda self: 2.0 if self.trainer.colorizer.activation_checkpointing else 1e-9)
    found = measure(config(), StepOptions(variants=["fp32", "fp32 activation_checkpointing"], seconds=1.0))
    assert [row["variant"] for row in found["rows"]] == ["fp32", CONFIGURED]
    assert found["skipped"] == {
        "fp32 activation_checkpointing, batches of 2": (
            "a step takes 2.0 s: give --seconds 27 or more to measure it"  # 3 variants, 4 rounds, a tenth more
        )
    }


def test_a_step_that_is_stopped_has_written_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each variant's first steps, before the rounds."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("photochrom.bench.step.measurement.collect", stop)
    out = tmp_path / "step.json"
    with pytest.raises(KeyboardInterrupt):
        measure(config(), StepOptions(variants=["fp32", "fp32 channels_last"], seconds=60.0, out=out))
    rows = json.loads(out.read_text())["rows"]
    assert [row["variant"] for row in rows] == ["fp32", "fp32 channels_last", CONFIGURED]
    assert all(row["median(img/s)"] > 0 for row in rows)


def test_a_loaders_batch_runs_what_was_compiled_for_the_benchmarks(shards: ShardSet) -> None:
    step, counter = Step(config(), 2, torch.device("cpu")), CompileCounter()
    compiled = torch.compile(step.trainer._micro_batch_loss, backend=counter)
    settings: dict[str, Any] = {"batch_size": 2, "size": 32, "train": True}
    for batch in (step.batch, *(next(iter(kind(shards, **settings))) for kind in (TorchLoader, SyntheticLoader))):
        compiled(batch)
    assert counter.frame_count == 1


@pytest.mark.parametrize("recipe", sorted(_recipes()))
def test_every_recipe_can_be_measured_without_a_set(recipe: str) -> None:
    """Also those that mix several sets."""
    _, run = parse_run(StepOptions, ["--config", recipe], "bench step")
    assert run.data.weights is None


def test_an_unknown_word_is_refused() -> None:
    with pytest.raises(ValueError, match="--variants has the unknown word 'fp33': known are bf16, fp16, fp32, "):
        apply_variant(config(), "fp33")


def test_settings_that_a_variant_does_not_name_are_torch_defaults() -> None:
    run = replace(
        config(), train=TrainConfig(precision="bf16", activation_checkpointing=True, memory_format="channels_last")
    )
    plain, other = apply_variant(run, "fp32"), apply_variant(run, "bf16 default space_to_batch")
    assert (plain.train.precision, plain.train.memory_format, plain.train.compile) == ("fp32", "contiguous", "off")
    assert plain.model.init_args["dilation"] == "native"
    assert not plain.train.activation_checkpointing
    assert (other.train.precision, other.train.compile) == ("bf16", "default")
    assert other.model.init_args == {"width": 0.0625, "head": "ab", "dilation": "space_to_batch"}


def test_parts_of_a_step_are_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with a loss that needs a prior; by a clock on which only the hooks take time."""
    now = [0.0]

    class Slow(Clock):
        def lap(self) -> float:
            passed, now[0] = now[0], 0.0
            return passed

    def takes(seconds: float) -> Callable[..., None]:
        def wait(*_: object) -> None:
            now[0] += seconds

        return wait

    monkeypatch.setattr("photochrom.bench.step.measurement.Clock", Slow)
    step = Step(config("RebalancedCrossEntropy", "bins"), 2, torch.device("cpu"))
    step.trainer.loss.register_forward_pre_hook(takes(3.0))
    next(iter(step.trainer.colorizer.parameters())).register_hook(takes(2.0))  # when its gradient is there
    step.trainer.optimizer.register_step_post_hook(takes(1.0))
    assert step.parts() == {"forward": 3000.0, "backward": 2000.0, "optimizer": 1000.0}


@pytest.mark.parametrize("room", [0, 7, 8, 12, 100, 224, 1000, 1 << 14, 1 << 20])
def test_the_largest_batch_that_fits(room: int) -> None:
    tried = []

    def fits(number: int) -> bool:
        tried.append(number)
        return number <= room

    found = max_batch(fits)
    assert found % 8 == 0
    assert found <= room
    assert found >= min(room * 8 // 9 - 8, 1 << 13)
    assert len(tried) <= 16
