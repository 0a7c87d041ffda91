"""LPIPS and FID by torchmetrics."""

import json
from pathlib import Path

import numpy as np
import photochrom
import pytest
import scipy.linalg
import torch
from photochrom.engine.cli import main
from photochrom.engine.evaluation import evaluate, perceptual
from photochrom.pipelines import LabBatch, ShardSet, lab_to_rgb
from torchmetrics.image.fid import FrechetInceptionDistance


class Means(torch.nn.Module):
    """Stands in for Inception: mean and standard deviation of each channel."""

    num_features = 6

    def forward(self, rgb: torch.Tensor) -> torch.Tensor:
        return torch.cat([rgb.float().mean(dim=(2, 3)), rgb.float().std(dim=(2, 3))], dim=1)


def test_lpips_and_fid_by_torchmetrics(
    trained: Path, shards: ShardSet, batch: LabBatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks without weights stand in for the published ones. FID is compared with SciPy."""
    monkeypatch.setattr(perceptual, "_make_fid", lambda: FrechetInceptionDistance(Means(), normalize=True))
    monkeypatch.setattr(evaluate, "load_lpips", lambda device: lambda rgb, true: (rgb - true).abs().mean(dim=(1, 2, 3)))
    out = tmp_path / "out"
    command = ["evaluate", str(trained), "--data", str(shards.root), "--out", str(out), "--metrics", "lpips", "fid"]
    assert main([*command, "--batch-size", "4", "--gallery", "2", "--gallery-by", "lpips"]) == 0
    (result,) = json.loads((out / "summary.json").read_text())["results"]
    with torch.inference_mode():
        ab = photochrom.load(trained)(batch.L).ab()
    rgb, real = lab_to_rgb(batch.L, ab), lab_to_rgb(batch.L, batch.ab)
    assert result["metrics"]["lpips"] == pytest.approx((rgb - real).abs().mean().item(), rel=1e-4)
    x, y = (Means()(images).double().numpy() for images in (rgb, real))
    cov_x, cov_y = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(cov_x @ cov_y).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov_x + cov_y - 2 * root)
    assert result["metrics"]["fid"] == pytest.approx(expected, rel=1e-3)
    assert result["metrics"]["fid"] != result["baselines"]["grey"]["fid"]
    assert "LPIPS on AlexNet" in (out / "report.html").read_text()


def test_fid_is_not_lost_when_it_is_interrupted(
    trained: Path, shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: perceptual.Fid) -> dict[str, float]:
        raise KeyboardInterrupt

    monkeypatch.setattr(perceptual, "_make_fid", lambda: FrechetInceptionDistance(Means(), normalize=True))
    command = ["evaluate", str(trained), "--data", str(shards.root), "--out", str(tmp_path / "out"), "--metrics", "fid"]
    with monkeypatch.context() as patch:
        patch.setattr(perceptual.Fid, "compute", stop)
        assert main(command) == 130
    assert main([*command, "--resume"]) == 0
    (result,) = json.loads((tmp_path / "out" / "summary.json").read_text())["results"]
    assert result["metrics"]["fid"] > 0
    assert result["num_samples"] == 9


def test_lpips_is_of_each_photograph(monkeypatch: pytest.MonkeyPatch) -> None:
    class Network(torch.nn.Module):
        def forward(self, rgb: torch.Tensor, true_rgb: torch.Tensor, normalize: bool) -> torch.Tensor:
            assert normalize  # values are in [0, 1]
            return (rgb - true_rgb).abs().mean(dim=(1, 2, 3), keepdim=True)

    class Metric:
        def __init__(self, net: str) -> None:
            assert net == "alex"
            self.net = Network()

    monkeypatch.setattr("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", Metric)
    lpips = perceptual.load_lpips(torch.device("cpu"))
    rgb, true_rgb = torch.rand(2, 3, 3, 8, 8)
    assert torch.equal(lpips(rgb, true_rgb), (rgb - true_rgb).abs().mean(dim=(1, 2, 3)))
    assert lpips(rgb[:1], true_rgb[:1]).shape == (1,)
