import csv
import html.parser
import io
import json
import math
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import photochrom
import pytest
import scipy.linalg
import torch
from accelerate import Accelerator
from photochrom.engine.cli import main
from photochrom.engine.evaluation import evaluate, perceptual, report
from photochrom.engine.evaluation.predictors import ModelPredictor
from photochrom.engine.evaluation.row_file import RowFile
from photochrom.engine.evaluation.score import score
from photochrom.engine.training.run import train
from photochrom.losses import L2, ab_bins
from photochrom.pipelines import DaliLoader, LabBatch, PackConfig, ShardSet, lab_to_rgb, pack
from PIL import Image
from torchmetrics.image.fid import FrechetInceptionDistance


@pytest.fixture(scope="module")
def evaluated(trained: Path, shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluated") / "out"
    assert main(["evaluate", str(trained), "--data", str(shards.root), "--out", str(out), "--gallery", "3"]) == 0
    return out


@pytest.fixture(autouse=True)
def _no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out what takes most of the time of so small a set; the page of `evaluated` has its charts."""
    monkeypatch.setattr(report, "histogram", lambda *_: "data:image/svg+xml,")


def photographs(shards: ShardSet) -> LabBatch:
    return next(iter(DaliLoader(shards, batch_size=9, size=32, train=False)))


def rows(evaluated: Path) -> list[dict[str, str]]:
    with open(evaluated / "trained-on-nine" / "per_image.csv", newline="") as file:
        return list(csv.DictReader(file))


def slow_figures(batch: LabBatch, predicted: np.ndarray, prior: np.ndarray) -> dict[str, float]:
    """The set's figures in NumPy float64, from the formulas; all photographs have one size."""
    true = batch.ab.double().numpy()
    error = np.sqrt(((predicted - true) ** 2).sum(axis=1))
    distance = np.linalg.norm(true[:, None] - ab_bins().double().numpy()[..., None, None], axis=2)
    rarest = prior[prior > 0].min()  # as which bins count that the set's own statistics have none of
    weight = 1 / np.where(prior > 0, prior, rarest)[distance.argmin(axis=1)]
    rgb, real = (lab_to_rgb(batch.L, torch.from_numpy(ab)).double().numpy() for ab in (predicted, true))

    def colorfulness(picture: np.ndarray) -> float:
        red, green, blue = 255 * picture
        rg, yb = red - green, (red + green) / 2 - blue
        return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))

    ours, theirs = np.array([colorfulness(p) for p in rgb]), np.array([colorfulness(p) for p in real])
    return {
        "mse_ab": ((predicted - true) ** 2).mean(),
        "rmse_ab": math.sqrt(((predicted - true) ** 2).mean()),
        "psnr": float(np.mean([-10 * math.log10(((p - r) ** 2).mean()) for p, r in zip(rgb, real, strict=True)])),
        "auc": 100 * float(np.mean([(error <= t).mean() for t in range(151)])),
        "auc_rebalanced": 100 * float(np.mean([(weight * (error <= t)).sum() / weight.sum() for t in range(151)])),
        "colorfulness": ours.mean(),
        "delta_colorfulness": abs(ours - theirs).mean(),
        "delta_mean_colorfulness": abs(ours.mean() - theirs.mean()),
        "chroma": float(np.linalg.norm(predicted, axis=1).mean()),
    }


def test_the_figures_are_those_of_the_definitions(evaluated: Path, trained: Path, shards: ShardSet) -> None:
    """Of the model, of grey, and of the mean colour, with all photographs in one batch."""
    batch = photographs(shards)
    with torch.inference_mode():
        ab = photochrom.load(trained)(batch.L).ab().double().numpy()
    mean = (shards.prior @ ab_bins().double().numpy())[None, :, None, None]
    assert mean.squeeze() == pytest.approx(batch.ab.double().mean(dim=(0, 2, 3)).numpy(), abs=1)
    summary = json.loads((evaluated / "summary.json").read_text())
    assert summary["provenance"].keys() == {"commit", "dirty", "command", "time"}
    (result,) = summary["results"]
    assert result["num_samples"] == 9
    assert result["is_training_set"] is True
    for found, predicted in (
        (result["metrics"], ab),
        (result["baselines"]["grey"], np.zeros_like(ab)),
        (result["baselines"]["mean"], np.broadcast_to(mean, ab.shape).copy()),
    ):
        for name, expected in slow_figures(batch, predicted, shards.prior).items():
            assert found[name] == pytest.approx(expected, rel=1e-4, abs=1e-2), name
    assert result["baselines"]["grey"]["near_grey"] == 100
    assert result["baselines"]["grey"]["delta_mean_colorfulness"] == pytest.approx(
        result["truth"]["colorfulness"], 1e-3
    )
    assert result["metrics"].keys() == {"loss", *result["baselines"]["grey"]}


def test_another_prior_weighs_otherwise(evaluated: Path, trained: Path, shards: ShardSet, tmp_path: Path) -> None:
    prior = np.full(313, 1 / 313)
    np.save(tmp_path / "uniform.npy", prior)
    command = ["evaluate", str(trained), "--data", str(shards.root), "--out", str(tmp_path / "out"), "--gallery", "1"]
    assert main([*command, "--prior", str(tmp_path / "uniform.npy")]) == 0
    (result,) = json.loads((tmp_path / "out" / "summary.json").read_text())["results"]
    assert result["metrics"]["auc_rebalanced"] == pytest.approx(result["metrics"]["auc"], rel=1e-5)
    (own,) = json.loads((evaluated / "summary.json").read_text())["results"]
    assert own["metrics"]["auc_rebalanced"] < own["metrics"]["auc"] - 1
    assert "p is that of" in " ".join((tmp_path / "out" / "report.html").read_text().split())


def test_lab_in_bytes_scores_as_jpegs_do(evaluated: Path, trained: Path, photos: Path, tmp_path: Path) -> None:
    config = PackConfig(source=photos, out=tmp_path / "lab", short_side=96, workers=2, store="lab")
    pack(config)
    command = ["evaluate", str(trained), "--data", str(tmp_path / "lab"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    (result,) = json.loads((tmp_path / "out" / "summary.json").read_text())["results"]
    (other,) = json.loads((evaluated / "summary.json").read_text())["results"]
    assert result["num_samples"] == 9
    assert result["metrics"]["rmse_ab"] == pytest.approx(other["metrics"]["rmse_ab"], rel=0.05)
    assert result["baselines"]["grey"]["rmse_ab"] == pytest.approx(other["baselines"]["grey"]["rmse_ab"], rel=0.05)


def test_every_photograph_has_its_line(evaluated: Path, shards: ShardSet, trained: Path) -> None:
    found = rows(evaluated)
    batch = photographs(shards)
    with torch.inference_mode():
        prediction = photochrom.load(trained)(batch.L)
    for i, row in enumerate(found):
        sample = shards.sample(i)
        assert (row["key"], row["path"], row["class"]) == (sample.key, sample.path, sample.class_name)
        assert float(row["loss"]) == pytest.approx(L2()(prediction[i : i + 1], batch[i : i + 1]).total.item(), rel=1e-4)
        error = (prediction[i : i + 1].ab() - batch.ab[i]).square().mean().sqrt().item()
        assert float(row["rmse_ab"]) == pytest.approx(error, rel=1e-4)
    assert len(found) == 9


def test_the_galleries_show_the_very_best_and_the_very_worst(evaluated: Path, shards: ShardSet, trained: Path) -> None:
    by_loss = sorted(rows(evaluated), key=lambda row: float(row["loss"]))
    folder = evaluated / "trained-on-nine"
    for name, ranked in (("best", by_loss), ("worst", by_loss[::-1])):
        expected = [
            f"{rank:03d}_{row['key']}_{version}.png"
            for rank, row in enumerate(ranked[:3], start=1)
            for version in ("grey", "pred", "real")
        ]
        assert sorted(path.name for path in (folder / name).iterdir()) == expected
    # The right picture beside its prediction, each from the photograph that it is named for.
    batch = photographs(shards)
    keys = [shards.sample(i).key for i in range(9)]
    with torch.inference_mode():
        ab = photochrom.load(trained)(batch.L).ab()
    for path in folder.glob("*/*.png"):
        _, key, version = path.stem.split("_", 1)[0], *path.stem.split("_", 1)[1].rsplit("_", 1)
        i = keys.index(key)
        shown = {"grey": torch.zeros_like(ab[i]), "pred": ab[i], "real": batch.ab[i]}[version]
        rgb = lab_to_rgb(batch.L[i : i + 1], shown[None])[0].permute(1, 2, 0).numpy()
        assert np.abs(np.asarray(Image.open(path)) - rgb * 255).max() < 0.51


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


def test_the_page_needs_nothing_from_elsewhere_and_says_what_was_measured(evaluated: Path) -> None:
    source = (evaluated / "report.html").read_text()
    page = Page()
    page.feed(source)
    pictures = [link for link in page.links if not link.startswith("#")]
    assert len(pictures) == 12 + 2 * 3 * 3
    assert all(link.startswith("data:image/") for link in pictures)
    assert "url(" not in source
    assert all(page.alts)
    (result,) = json.loads((evaluated / "summary.json").read_text())["results"]
    text = " ".join(page.text.split())
    ours, grey = result["metrics"]["rmse_ab"], result["baselines"]["grey"]["rmse_ab"]
    gain = 100 * (1 - ours / grey)
    assert f"The ab RMSE is {ours:.2f}, {abs(gain):.0f} % {'below' if gain >= 0 else 'above'} the {grey:.2f}" in text
    assert "trained on these very photographs" in text
    assert "so small a set" in text
    assert "squashed to a square of 32 pixels a side" in text


def test_another_set_is_not_called_the_training_set(trained: Path, photos: Path, tmp_path: Path) -> None:
    assert main(["pack", str(photos), str(tmp_path / "other"), "--short-side", "64", "--workers", "1"]) == 0
    command = ["evaluate", str(trained), "--data", str(tmp_path / "other"), "--out", str(tmp_path / "out")]
    assert main([*command, "--crop", "center", "--size", "48"]) == 0
    (result,) = json.loads((tmp_path / "out" / "summary.json").read_text())["results"]
    assert result["is_training_set"] is False
    text = " ".join((tmp_path / "out" / "report.html").read_text().split())
    assert "trained on these very photographs" not in text
    assert "its largest centred square of 48 pixels a side" in text


def test_several_models_on_several_sets(
    trained: Path, shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each set is read once for all models; what each scores is what it scores alone."""
    passes = []
    monkeypatch.setattr(
        evaluate.Scorer,
        "rows",
        lambda self, *a, rows=evaluate.Scorer.rows, **k: passes.append(0) or rows(self, *a, **k),
    )
    other = trained / "checkpoints" / "step-00000010"
    command = ["evaluate", str(trained), str(other), "--data", str(shards.root), str(shards.root)]
    assert main([*command, "--out", str(tmp_path / "out"), "--gallery", "1"]) == 0
    results = json.loads((tmp_path / "out" / "summary.json").read_text())["results"]
    assert [result["checkpoint"] for result in results] == [str(trained), str(other)] * 2
    assert results[0]["metrics"] == results[2]["metrics"]
    assert results[0]["metrics"]["rmse_ab"] != results[1]["metrics"]["rmse_ab"]
    folders = {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()}
    names = ("trained-on-nine", "trained-step-00000010-on-nine")
    assert folders == {*names, *(f"{name}-2" for name in names)}
    assert len(passes) == 2
    alone = score(ModelPredictor(photochrom.load(other), L2()), DaliLoader(shards, batch_size=9, size=32, train=False))
    assert results[1]["metrics"] == pytest.approx(alone, rel=1e-5)


def test_sets_of_one_name_seen_at_two_sizes(
    trained: Path, shards: ShardSet, configure: Any, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    larger = tmp_path / "larger"
    train(configure(larger, data__size=48, train__steps=1))
    sets = [tmp_path / "a" / "val", tmp_path / "b" / "val"]
    shutil.copytree(shards.root, sets[0])
    assert main(["pack", str(photos), str(sets[1]), "--short-side", "64", "--workers", "1"]) == 0
    command = ["evaluate", str(trained), str(larger), "--gallery", "1"]
    assert main([*command, "--data", *map(str, sets), "--out", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out" / "summary.json").read_text())["results"]
    found = {(result["data"], result["size"]): result["metrics"]["rmse_ab"] for result in results}
    for folder in sets:
        for model, size in ((trained, 32), (larger, 48)):
            loader = DaliLoader(folder, batch_size=9, size=size, train=False)
            alone = score(ModelPredictor(photochrom.load(model), L2()), loader)
            assert found[str(folder), size] == pytest.approx(alone["rmse_ab"], rel=1e-5)
    assert len({result["metrics"]["rmse_ab"] for result in results}) == 4


def test_a_set_without_colours(trained: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for path in sorted(photos.rglob("*.*"))[:3]:
        Image.open(path).convert("L").save(tmp_path / "in" / f"{path.stem}.png")
    command = [
        "pack",
        str(tmp_path / "in"),
        str(tmp_path / "set"),
        "--short-side",
        "64",
        "--keep-grey",
        "--workers",
        "1",
    ]
    assert main([*command, "--store", "lab"]) == 0
    command = ["evaluate", str(trained), "--data", str(tmp_path / "set"), "--out", str(tmp_path / "out")]
    assert main([*command, "--baseline", "grey"]) == 0
    model, grey = json.loads((tmp_path / "out" / "summary.json").read_text())["results"]
    assert model["metrics"]["rmse_ab"] > grey["metrics"]["rmse_ab"] == 0
    assert grey["metrics"]["psnr"] is None  # infinite, of which JSON knows nothing


def test_keys_with_slashes_of_shards_from_elsewhere(trained: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with tarfile.open(tmp_path / "set" / "a-000000.tar", "w") as tar:
        for path in sorted(photos.rglob("*.*"))[:3]:
            buffer = io.BytesIO()
            Image.open(path).convert("RGB").resize((96, 96)).save(buffer, "JPEG")
            member = tarfile.TarInfo(f"class 1/{path.stem}.jpg")
            member.size = len(buffer.getvalue())
            tar.addfile(member, io.BytesIO(buffer.getvalue()))
    assert main(["index", str(tmp_path / "set")]) == 0
    out = tmp_path / "out"
    assert main(["evaluate", str(trained), "--data", str(tmp_path / "set"), "--out", str(out)]) == 0
    assert len(list((out / "trained-on-set" / "best").iterdir())) == 3


def test_a_run_called_truth(trained: Path, shards: ShardSet, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "truth")
    command = ["evaluate", str(tmp_path / "truth"), "--data", str(shards.root), "--out", str(tmp_path / "out")]
    assert main([*command, "--gallery", "1"]) == 0
    assert (tmp_path / "out" / "truth-2-on-nine").exists()


def test_baselines_need_no_checkpoint(evaluated: Path, shards: ShardSet, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["evaluate", "--data", str(shards.root), "--out", str(out), "--size", "32", "--gallery", "2"]
    assert main([*command, "--baseline", "grey", "mean"]) == 0
    grey, mean = json.loads((out / "summary.json").read_text())["results"]
    (model,) = json.loads((evaluated / "summary.json").read_text())["results"]
    assert (grey["checkpoint"], mean["checkpoint"]) == ("grey", "mean")
    assert grey["metrics"] == model["baselines"]["grey"]
    assert mean["metrics"] == model["baselines"]["mean"]
    with open(out / "grey-on-nine" / "per_image.csv", newline="") as file:
        by_error = sorted(csv.DictReader(file), key=lambda row: float(row["rmse_ab"]))
    assert (out / "grey-on-nine" / "best" / f"001_{by_error[0]['key']}_pred.png").exists()
    assert (out / "grey-on-nine" / "worst" / f"001_{by_error[-1]['key']}_pred.png").exists()


def test_galleries_by_another_figure(evaluated: Path, trained: Path, shards: ShardSet, tmp_path: Path) -> None:
    command = ["evaluate", str(trained), "--data", str(shards.root), "--out", str(tmp_path / "out"), "--gallery", "2"]
    assert main([*command, "--gallery-by", "psnr"]) == 0
    ranked = sorted(rows(evaluated), key=lambda row: -float(row["psnr"]))
    for kind, row in (("best", ranked[0]), ("worst", ranked[-1])):
        assert (tmp_path / "out" / "trained-on-nine" / kind / f"001_{row['key']}_real.png").exists()
    assert "Best by PSNR" in (tmp_path / "out" / "report.html").read_text()


def test_figures_of_classes(trained: Path, photos: Path, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_scores_do_not_depend_on_the_batches(trained: Path, shards: ShardSet, batch_size: int) -> None:
    model = ModelPredictor(photochrom.load(trained), L2())
    one, other = (score(model, DaliLoader(shards, batch_size=size, size=32, train=False)) for size in (9, batch_size))
    assert other == pytest.approx(one, rel=1e-4)


class Stopped(Exception):
    """What ends a process in the middle."""


def test_an_interrupted_evaluation_goes_on(
    trained: Path, shards: ShardSet, evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out = tmp_path / "out"
    command = ["evaluate", str(trained), "--data", str(shards.root), str(shards.root), "--out", str(out)]
    command += ["--gallery", "3", "--batch-size", "1"]
    monkeypatch.setattr(evaluate, "_EVERY", 2)
    append, appended = RowFile.append, []

    def counted(self: RowFile, new: np.ndarray) -> None:
        append(self, new)
        appended.extend(new["index"].tolist())
        if len(appended) == stop_after:
            raise KeyboardInterrupt

    monkeypatch.setattr(RowFile, "append", counted)
    stop_after = 4
    assert main(command) == 130
    assert "--resume continues from here" in capsys.readouterr().err
    assert main(command) == 1
    assert "holds an unfinished evaluation: continue it with --resume, or name a new folder" in capsys.readouterr().err
    assert main([*command, "--resume", "--crop", "center"]) == 1
    assert "with other settings or files (crop: squash -> center)" in capsys.readouterr().err
    stop_after = 4 + 6 + 6  # in the second set
    assert main([*command, "--resume"]) == 130
    assert len(json.loads((out / "summary.json").read_text())["results"]) == 1
    assert main([*command, "--resume", "--batch-size", "4"]) == 0
    assert appended == [*range(4), *range(3, 9), *range(6), 8, *range(5, 9)]  # the last row is scored once more
    results = json.loads((out / "summary.json").read_text())["results"]
    (expected,) = json.loads((evaluated / "summary.json").read_text())["results"]
    assert [result["metrics"] for result in results] == [pytest.approx(expected["metrics"], rel=1e-5)] * 2
    assert {path.name for path in out.iterdir()} == {
        *("trained-on-nine", "trained-on-nine-2", "report.html", "summary.json", "config.yaml"),
    }
    assert (out / "report.html").read_text().count("<article") == 2
    assert main([*command, "--resume"]) == 1
    assert "holds no unfinished evaluation: name a new folder" in capsys.readouterr().err


def test_another_set_under_the_same_name_is_not_gone_on_with(
    trained: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pack_at(short_side: int) -> None:
        command = ["pack", str(photos), str(tmp_path / "set"), "--short-side", str(short_side), "--workers", "1"]
        assert main(command) == 0

    append = RowFile.append

    def stop(self: RowFile, new: np.ndarray) -> None:
        append(self, new)
        raise KeyboardInterrupt

    pack_at(48)
    command = ["evaluate", str(trained), "--data", str(tmp_path / "set"), "--out", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr(RowFile, "append", stop)
        assert main(command) == 130
    shutil.rmtree(tmp_path / "set")
    pack_at(64)
    assert main([*command, "--resume"]) == 1
    assert "with other settings or files (sets: " in capsys.readouterr().err


def test_nothing_stays_of_what_did_not_begin(
    trained: Path, shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RowFile, "append", stop)
    command = ["evaluate", str(trained), "--data", str(shards.root), "--out", str(tmp_path / "out")]
    assert main(command) == 130
    assert not (tmp_path / "out").exists()


def test_rows_survive_what_files_do_not(tmp_path: Path) -> None:
    fields = np.dtype([("index", "<i8"), ("x", "<f4")])
    rows = np.array([(i, i / 2) for i in range(5)], fields)
    file = RowFile(tmp_path / "rows", fields)
    assert len(file.read()) == 0
    file.append(rows[:3])
    file.append(rows[3:])
    whole = (tmp_path / "rows").read_bytes()
    (tmp_path / "rows").write_bytes(whole[:-3])  # cut by a kill
    assert RowFile(tmp_path / "rows", fields).read().tolist() == rows[:3].tolist()  # the last can be cut, too
    (tmp_path / "rows").write_bytes(whole[:24] + bytes(len(whole) - 24))  # emptied by a power cut
    assert RowFile(tmp_path / "rows", fields).read().tolist() == rows[:1].tolist()
    (tmp_path / "rows").write_bytes(bytes(12))
    assert len(RowFile(tmp_path / "rows", fields)) == 0


class Means(torch.nn.Module):
    """Stands for Inception: the mean and the spread of each channel."""

    num_features = 6

    def forward(self, rgb: torch.Tensor) -> torch.Tensor:
        return torch.cat([rgb.float().mean(dim=(2, 3)), rgb.float().std(dim=(2, 3))], dim=1)


def test_lpips_and_fid_by_torchmetrics(
    trained: Path, shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With networks that stand for the published ones, which cannot be had here; FID against SciPy."""
    monkeypatch.setattr(perceptual, "_make_fid", lambda: FrechetInceptionDistance(Means(), normalize=True))
    monkeypatch.setattr(evaluate, "load_lpips", lambda device: lambda rgb, true: (rgb - true).abs().mean(dim=(1, 2, 3)))
    out = tmp_path / "out"
    command = ["evaluate", str(trained), "--data", str(shards.root), "--out", str(out), "--metrics", "lpips,fid"]
    assert main([*command, "--batch-size", "4", "--gallery", "2", "--gallery-by", "lpips"]) == 0
    (result,) = json.loads((out / "summary.json").read_text())["results"]
    batch = photographs(shards)
    with torch.inference_mode():
        ab = photochrom.load(trained)(batch.L).ab()
    rgb, real = lab_to_rgb(batch.L, ab), lab_to_rgb(batch.L, batch.ab)
    assert result["metrics"]["lpips"] == pytest.approx((rgb - real).abs().mean().item(), rel=1e-4)
    x, y = (Means()(pictures).double().numpy() for pictures in (rgb, real))
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


def test_lpips_is_each_process_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchmetrics would hand every process the scores of all."""
    made: dict[str, Any] = {}

    class Stub(torch.nn.Module):
        def __init__(self, net: str, **settings: Any) -> None:
            super().__init__()
            made.update(settings, net=net)

    monkeypatch.setattr("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", Stub)
    perceptual.load_lpips(torch.device("cpu"))
    assert made == {"net": "alex", "reduction": "none", "normalize": True, "sync_on_compute": False}


@pytest.mark.slow
def test_many_ranks_score_as_one(trained: Path, shards: ShardSet, evaluated: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    command += [
        "-m",
        "photochrom",
        "evaluate",
        str(trained),
        "--data",
        str(shards.root),
        "--out",
        str(tmp_path / "out"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--batch-size", "4"], capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report.html") == 1
    (ours,) = json.loads((tmp_path / "out" / "summary.json").read_text())["results"]
    (expected,) = json.loads((evaluated / "summary.json").read_text())["results"]
    assert ours["num_samples"] == 9
    assert ours["metrics"] == pytest.approx(expected["metrics"], rel=1e-5)
    for name, baseline in expected["baselines"].items():
        assert ours["baselines"][name] == pytest.approx(baseline, rel=1e-5)
    with open(tmp_path / "out" / "trained-on-nine" / "per_image.csv", newline="") as file:
        for row, other in zip(csv.DictReader(file), rows(evaluated), strict=True):
            assert row["key"] == other["key"]
            assert float(row["loss"]) == pytest.approx(float(other["loss"]), rel=1e-4)


def test_a_missing_matplotlib_is_said_before_anything_is_scored(
    trained: Path, shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["evaluate", str(trained), "--data", str(shards.root), "--out", str(tmp_path / "out")]) == 1
    assert "the report needs matplotlib for its histograms: pip install matplotlib" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_batch_for_every_rank(
    trained: Path, shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    command = ["evaluate", str(trained), "--data", str(shards.root), "--out", str(tmp_path / "out")]
    assert main([*command, "--batch-size", "1"]) == 1
    assert "--batch-size 1 leaves some of 2 processes without a photograph: enlarge it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere", "--data", "SHARDS"], "there is no checkpoint at nowhere"),
        (["RUN", "--data", "nowhere"], "there is no shard set at nowhere"),
        (["RUN", "--data", "SHARDS", "--size", "200"], "crops of 200 pixels are larger than every photograph"),
        (["RUN", "--data", "SHARDS", "--precision", "fp16", "--device", "cpu"], "precision=fp16 needs a GPU"),
        (["RUN", "--data", "SHARDS", "--prior", "nowhere.npy"], "--prior=nowhere.npy cannot be read"),
        (["RUN", "--data", "SHARDS", "--metrics", "lpips"], "--metrics lpips needs a network with published weights"),
        (["RUN", "--data", "SHARDS", "--metrics", "fid"], "or leave it out"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    trained: Path,
    shards: ShardSet,
    tmp_path: Path,
    arguments: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"RUN": str(trained), "SHARDS": str(shards.root)}
    out = tmp_path / "out"
    assert main(["evaluate", *(places.get(word, word) for word in arguments), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "name a checkpoint, or a baseline that needs none: --baseline grey"),
        (["--baseline", "blue"], "--baseline=blue: it should be 'grey' or 'mean'"),
        (["RUN", "--metrics", "lpips,niqe"], "--metrics niqe is unknown; the metrics to add are lpips, fid"),
        (["RUN", "--gallery-by", "colorfulness"], "ranks no photographs; known are loss, rmse_ab"),
        (["RUN", "--gallery-by", "lpips"], "--gallery-by lpips ranks no photographs"),
    ],
)
def test_bad_usage(arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", *arguments, "--data", "shards", "--out", str(tmp_path / "out")])
    assert sentence in capsys.readouterr().err


def test_names_that_are_no_text(trained: Path, photos: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    name = os.fsdecode(b"caf\xe9 <b>.png")  # Latin-1 on a UTF-8 system
    (source / name).write_bytes((photos / "coffee.png").read_bytes())
    assert main(["pack", str(source), str(tmp_path / "shards"), "--short-side", "64", "--workers", "1"]) == 0
    assert ShardSet.open(tmp_path / "shards").sample(0).path == name
    out = tmp_path / "out"
    assert main(["evaluate", str(trained), "--data", str(tmp_path / "shards"), "--out", str(out)]) == 0
    assert "caf? &lt;b&gt;.png" in (out / "report.html").read_text()
    assert b"caf\xe9 <b>.png" in (out / "trained-on-shards" / "per_image.csv").read_bytes()
    assert main(["colorize", str(trained), str(source), "--out", str(tmp_path / "colorized")]) == 0
    assert (tmp_path / "colorized" / name).exists()


def test_a_folder_in_use_is_left_alone(trained: Path, shards: ShardSet, tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("dear")
    assert main(["evaluate", str(trained), "--data", str(shards.root), "--out", str(tmp_path)]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]
