"""Files and report of an evaluation, compared with the definitions of the metrics."""

import csv
import html.parser
import json
import math
from pathlib import Path

import numpy as np
import photochrom
import pytest
import torch
from photochrom.engine.cli import main
from photochrom.losses import L2, ab_bins
from photochrom.pipelines import LabBatch, ShardSet, lab_to_rgb
from PIL import Image


def slow_metrics(batch: LabBatch, predicted: np.ndarray, prior: np.ndarray) -> dict[str, float]:
    """Returns the set's metrics in NumPy float64, from the formulas, for photographs of one size."""
    true = batch.ab.double().numpy()
    error = np.sqrt(((predicted - true) ** 2).sum(axis=1))
    distance = np.linalg.norm(true[:, None] - ab_bins().double().numpy()[..., None, None], axis=2)
    rarest = prior[prior > 0].min()  # the weight of bins that are empty in the prior
    weight = 1 / np.where(prior > 0, prior, rarest)[distance.argmin(axis=1)]
    rgb, real = (lab_to_rgb(batch.L, torch.from_numpy(ab)).double().numpy() for ab in (predicted, true))

    def colorfulness(image: np.ndarray) -> float:
        red, green, blue = 255 * image
        rg, yb = red - green, (red + green) / 2 - blue
        return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))

    predicted_values, true_values = np.array([colorfulness(p) for p in rgb]), np.array([colorfulness(p) for p in real])
    return {
        "mse_ab": ((predicted - true) ** 2).mean(),
        "rmse_ab": math.sqrt(((predicted - true) ** 2).mean()),
        "psnr": float(np.mean([-10 * math.log10(((p - r) ** 2).mean()) for p, r in zip(rgb, real, strict=True)])),
        "auc": 100 * float(np.mean([(error <= t).mean() for t in range(151)])),
        "auc_rebalanced": 100 * float(np.mean([(weight * (error <= t)).sum() / weight.sum() for t in range(151)])),
        "colorfulness": predicted_values.mean(),
        "delta_colorfulness": abs(predicted_values - true_values).mean(),
        "delta_mean_colorfulness": abs(predicted_values.mean() - true_values.mean()),
        "chroma": float(np.linalg.norm(predicted, axis=1).mean()),
    }


def test_the_metrics_are_those_of_the_definitions(
    evaluated: Path, trained: Path, shards: ShardSet, batch: LabBatch
) -> None:
    """Compares the metrics of the model, of grey and of the mean colour with NumPy's."""
    with torch.inference_mode():
        ab = photochrom.load(trained)(batch.L).ab().double().numpy()
    mean = (shards.prior @ ab_bins().double().numpy())[None, :, None, None]
    assert mean.squeeze() == pytest.approx(batch.ab.double().mean(dim=(0, 2, 3)).numpy(), abs=1)
    summary = json.loads((evaluated / "summary.json").read_text())
    assert summary["provenance"].keys() == {"commit", "dirty", "command", "time"}
    (result,) = summary["results"]
    assert result["num_samples"] == 9
    assert result["is_training_set"] is True
    for metrics, predicted in (
        (result["metrics"], ab),
        (result["baselines"]["grey"], np.zeros_like(ab)),
        (result["baselines"]["mean"], np.broadcast_to(mean, ab.shape).copy()),
    ):
        for name, expected in slow_metrics(batch, predicted, shards.prior).items():
            assert metrics[name] == pytest.approx(expected, rel=1e-4, abs=1e-2), name
    assert result["baselines"]["grey"]["near_grey"] == 100
    assert result["baselines"]["grey"]["delta_mean_colorfulness"] == pytest.approx(
        result["truth"]["colorfulness"], 1e-3
    )
    assert result["metrics"].keys() == {"loss", *result["baselines"]["grey"]}


def test_every_photograph_has_a_line(
    image_rows: list[dict[str, str]], shards: ShardSet, trained: Path, batch: LabBatch
) -> None:
    with torch.inference_mode():
        prediction = photochrom.load(trained)(batch.L)
    for i, row in enumerate(image_rows):
        sample = shards.sample(i)
        assert (row["key"], row["path"], row["class"]) == (sample.key, sample.path, sample.class_name)
        assert float(row["loss"]) == pytest.approx(L2()(prediction[i : i + 1], batch[i : i + 1]).total.item(), rel=1e-4)
        error = (prediction[i : i + 1].ab() - batch.ab[i]).square().mean().sqrt().item()
        assert float(row["rmse_ab"]) == pytest.approx(error, rel=1e-4)
    assert len(image_rows) == 9


def test_the_galleries_show_the_best_and_the_worst(
    evaluated: Path, image_rows: list[dict[str, str]], shards: ShardSet, trained: Path, batch: LabBatch
) -> None:
    by_loss = sorted(image_rows, key=lambda row: float(row["loss"]))
    folder = evaluated / "trained-on-nine"
    for name, ranked in (("best", by_loss), ("worst", by_loss[::-1])):
        expected = [
            f"{rank:03d}_{row['key']}_{version}.png"
            for rank, row in enumerate(ranked[:3], start=1)
            for version in ("grey", "pred", "real")
        ]
        assert sorted(path.name for path in (folder / name).iterdir()) == expected
    # Each file shows the photograph that it is named after.
    keys = [shards.sample(i).key for i in range(9)]
    with torch.inference_mode():
        ab = photochrom.load(trained)(batch.L).ab()
    for path in folder.glob("*/*.png"):
        _, key, version = path.stem.split("_", 1)[0], *path.stem.split("_", 1)[1].rsplit("_", 1)
        i = keys.index(key)
        shown = {"grey": torch.zeros_like(ab[i]), "pred": ab[i], "real": batch.ab[i]}[version]
        rgb = lab_to_rgb(batch.L[i : i + 1], shown[None])[0].permute(1, 2, 0).numpy()
        assert np.abs(np.asarray(Image.open(path)) - rgb * 255).max() < 0.51


def test_galleries_by_another_metric(
    image_rows: list[dict[str, str]], trained: Path, shards: ShardSet, tmp_path: Path
) -> None:
    command = ["evaluate", str(trained), "--data", str(shards.root), "--out", str(tmp_path / "out"), "--gallery", "2"]
    assert main([*command, "--gallery-by", "psnr"]) == 0
    ranked = sorted(image_rows, key=lambda row: -float(row["psnr"]))
    for kind, row in (("best", ranked[0]), ("worst", ranked[-1])):
        assert (tmp_path / "out" / "trained-on-nine" / kind / f"001_{row['key']}_real.png").exists()
    assert "Best by PSNR" in (tmp_path / "out" / "report.html").read_text()


def test_metrics_of_classes(trained: Path, photos: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted(photos.rglob("*.*"))):
        folder = tmp_path / "in" / ("even", "odd <i>")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / path.name).write_bytes(path.read_bytes())
    assert main(["pack", str(tmp_path / "in"), str(tmp_path / "set"), "--short-side", "64", "--workers", "1"]) == 0
    out = tmp_path / "out"
    assert main(["evaluate", str(trained), "--data", str(tmp_path / "set"), "--out", str(out)]) == 0
    with open(out / "trained-on-set" / "per_class.csv", newline="") as file:
        classes = {row["class"]: row for row in csv.DictReader(file)}
    with open(out / "trained-on-set" / "per_image.csv", newline="") as file:
        images = list(csv.DictReader(file))
    assert classes.keys() == {"even", "odd <i>"}
    for name, row in classes.items():
        errors = [float(image["mse_ab"]) for image in images if image["class"] == name]
        assert int(float(row["photographs"])) == len(errors)
        assert float(row["rmse_ab"]) == pytest.approx(math.sqrt(np.mean(errors)), rel=1e-4)
    assert "odd &lt;i&gt;" in (out / "report.html").read_text()


class Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.alts: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "action")]
        self.alts += [value or "" for name, value in attributes if name == "alt"]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_loads_nothing_and_states_the_protocol(evaluated: Path) -> None:
    source = (evaluated / "report.html").read_text()
    page = Page()
    page.feed(source)
    images = [link for link in page.links if not link.startswith("#")]
    assert len(images) == 12 + 2 * 3 * 3
    assert all(link.startswith("data:image/") for link in images)
    assert "url(" not in source
    assert all(page.alts)
    (result,) = json.loads((evaluated / "summary.json").read_text())["results"]
    text = " ".join(page.text.split())
    ours, grey = result["metrics"]["rmse_ab"], result["baselines"]["grey"]["rmse_ab"]
    gain = 100 * (1 - ours / grey)
    assert f"The ab RMSE is {ours:.2f}, {abs(gain):.0f} % {'below' if gain >= 0 else 'above'} the {grey:.2f}" in text
    assert "trained on these photographs" in text
    assert "so small a set" in text
    assert "squashed to a square of 32 pixels a side" in text
