import json
from pathlib import Path

import pytest
import torch
from photochrom.bench.step import main
from photochrom.engine.flops import flops_per_image
from photochrom.models import VGGColorizer

SMALL = ["--size", "32", "--width", "0.0625", "--seconds", "0.1", "--device", "cpu", "--batch-sizes", "2", "4"]


def test_variants_take_turns_at_the_same_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "step.json"
    variants = ["fp32", "bf16 channels_last", "fp32 space_to_batch recompute"]
    assert main([*SMALL, "--variants", *variants, "--peak-tflops", "0.1", "--out", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert [(row["variant"], row["batch_size"]) for row in figures["rows"]] == [
        (variant, size) for size in (2, 4) for variant in variants
    ]
    flops = flops_per_image(VGGColorizer(width=0.0625), 32, torch.device("cpu"))
    for row in figures["rows"]:
        assert 0 < row["min(img/s)"] <= row["median(img/s)"] <= row["max(img/s)"]
        assert row["num_rounds"] >= 3
        assert row["mfu(%)"] == pytest.approx(100 * flops * row["median(img/s)"] / 1e11)
    assert figures["rows"][0]["ratio"] == figures["rows"][3]["ratio"] == 1
    assert figures["verdict"] in capsys.readouterr().out


def test_a_word_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--variants", "fp33"]) == 1
    assert "--variants has 'fp33', which is unknown: known are bf16, fp16, fp32, " in " ".join(
        capsys.readouterr().err.split()
    )
