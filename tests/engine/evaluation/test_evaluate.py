"""Models, sets and settings of an evaluation."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import photochrom
import pytest
from accelerate import Accelerator
from photochrom.engine.cli import main
from photochrom.engine.evaluation import evaluate
from photochrom.engine.evaluation.gallery import image_name
from photochrom.engine.evaluation.predictors import ModelPredictor
from photochrom.engine.evaluation.score import score
from photochrom.engine.training.run import train
from photochrom.losses import L2
from photochrom.pipelines import DaliLoader, PackConfig, ShardSet, pack
from PIL import Image


def test_the_prior_changes_the_rebalanced_auc(evaluated: Path, trained: Path, shards: ShardSet, tmp_path: Path) -> None:
    prior = np.full(313, 1 / 313)
    np.save(tmp_path / "uniform.npy", prior)
    command = ["evaluate", str(trained), "--data", str(shards.root), "--out", str(tmp_path / "out"), "--gallery", "1"]
    assert main([*command, "--prior", str(tmp_path / "uniform.npy")]) == 0
    (result,) = json.loads((tmp_path / "out" / "summary.json").read_text())["results"]
    assert result["metrics"]["auc_rebalanced"] == pytest.approx(result["metrics"]["auc"], rel=1e-5)
    (own,) = json.loads((evaluated / "summary.json").read_text())["results"]
    assert own["metrics"]["auc_rebalanced"] < own["metrics"]["auc"] - 1
    assert "p is that of" in " ".join((tmp_path / "out" / "report.html").read_text().split())


def test_lab_shards_score_like_jpeg_shards(evaluated: Path, trained: Path, photos: Path, tmp_path: Path) -> None:
    config = PackConfig(source=photos, out=tmp_path / "lab", short_side=96, workers=2, store="lab")
    pack(config)
    command = ["evaluate", str(trained), "--data", str(tmp_path / "lab"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    (result,) = json.loads((tmp_path / "out" / "summary.json").read_text())["results"]
    (other,) = json.loads((evaluated / "summary.json").read_text())["results"]
    assert result["num_samples"] == 9
    assert result["metrics"]["rmse_ab"] == pytest.approx(other["metrics"]["rmse_ab"], rel=0.05)
    assert result["baselines"]["grey"]["rmse_ab"] == pytest.approx(other["baselines"]["grey"]["rmse_ab"], rel=0.05)


def test_only_the_training_set_is_called_so(trained: Path, photos: Path, tmp_path: Path) -> None:
    assert main(["pack", str(photos), str(tmp_path / "other"), "--short-side", "64", "--workers", "1"]) == 0
    command = ["evaluate", str(trained), "--data", str(tmp_path / "other"), "--out", str(tmp_path / "out")]
    assert main([*command, "--crop", "center", "--size", "48"]) == 0
    (result,) = json.loads((tmp_path / "out" / "summary.json").read_text())["results"]
    assert result["is_training_set"] is False
    text = " ".join((tmp_path / "out" / "report.html").read_text().split())
    assert "trained on these photographs" not in text
    assert "its largest centred square of 48 pixels a side" in text


def test_several_models_on_several_sets(
    trained: Path, shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each set is read once for all models, and each model scores as it does alone."""
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


def test_two_sets_of_one_name_at_two_sizes(
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
    rmse = {(result["data"], result["size"]): result["metrics"]["rmse_ab"] for result in results}
    for folder in sets:
        for model, size in ((trained, 32), (larger, 48)):
            loader = DaliLoader(folder, batch_size=9, size=size, train=False)
            alone = score(ModelPredictor(photochrom.load(model), L2()), loader)
            assert rmse[str(folder), size] == pytest.approx(alone["rmse_ab"], rel=1e-5)
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
    assert grey["metrics"]["psnr"] is None  # infinite, which JSON cannot express


def test_keys_with_slashes(trained: Path, photos: Path, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_scores_do_not_depend_on_the_batches(trained: Path, shards: ShardSet, batch_size: int) -> None:
    model = ModelPredictor(photochrom.load(trained), L2())
    one, other = (score(model, DaliLoader(shards, batch_size=size, size=32, train=False)) for size in (9, batch_size))
    assert other == pytest.approx(one, rel=1e-4)


@pytest.mark.slow
def test_three_ranks_score_like_one(
    trained: Path, shards: ShardSet, evaluated: Path, image_rows: list[dict[str, str]], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", "-m"]
    command += ["photochrom", "evaluate", str(trained), "--data", str(shards.root), "--out", str(tmp_path / "out")]
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
        for row, other in zip(csv.DictReader(file), image_rows, strict=True):
            assert row["key"] == other["key"]
            assert float(row["loss"]) == pytest.approx(float(other["loss"]), rel=1e-4)


def test_a_batch_size_below_the_number_of_ranks(
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
def test_bad_settings_are_refused_before_anything_is_written(
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
        (["RUN", "--metrics", "lpips", "niqe"], "--metrics=niqe: it should be 'lpips' or 'fid'"),
        (["RUN", "--gallery-by", "colorfulness"], "ranks no photographs; known are loss, rmse_ab"),
        (["RUN", "--gallery-by", "lpips"], "--gallery-by lpips ranks no photographs"),
    ],
)
def test_bad_usage(arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", *arguments, "--data", "shards", "--out", str(tmp_path / "out")])
    assert sentence in capsys.readouterr().err


def test_file_names_that_are_not_utf8(trained: Path, photos: Path, tmp_path: Path) -> None:
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
    assert main(["colorize", "--model", str(trained), str(source), "--out", str(tmp_path / "colorized")]) == 0
    assert (tmp_path / "colorized" / name).exists()


def test_a_folder_with_other_files_is_refused(trained: Path, shards: ShardSet, tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("dear")
    assert main(["evaluate", str(trained), "--data", str(shards.root), "--out", str(tmp_path)]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


def test_long_keys_of_other_tools_are_cut() -> None:
    sample: Any = SimpleNamespace(key="photographs/" + 240 * "x")
    assert image_name(1, sample, "grey") == f"001_photographs_{88 * 'x'}_grey.png"
