import json
from pathlib import Path

import pytest
import torch
from photochrom.bench.dev.losses import _by_all_distances, main
from photochrom.losses import soft_encode


def test_every_loss_is_measured_beside_the_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "losses.json"
    command = ["--size", "32", "--batch-size", "2", "--width", "0.0625", "--seconds", "0.1", "--device", "cpu"]
    assert main([*command, "--out", str(out)]) == 0
    results = json.loads(out.read_text())
    assert results.keys() == {"provenance", "machine", "versions", "settings", "rows", "verdict"}
    *_, step = results["rows"]
    assert step["what"] == "training step"
    for row in results["rows"]:
        assert 0 < row["min(ms)"] <= row["median(ms)"] <= row["max(ms)"]
        assert row["share(%)"] == pytest.approx(100 * row["median(ms)"] / step["median(ms)"])
        assert row["num_rounds"] >= 3
    assert results["verdict"] in capsys.readouterr().out


def test_soft_encoding_by_all_distances_gives_the_same() -> None:
    ab = torch.rand(2, 2, 8, 8, generator=torch.Generator().manual_seed(0)) * 100 - 50
    index, weight = _by_all_distances(ab)
    ours_index, ours_weight = soft_encode(ab)
    assert torch.equal(index.permute(0, 3, 1, 2), ours_index)
    torch.testing.assert_close(weight.permute(0, 3, 1, 2), ours_weight, rtol=0, atol=1e-4)
