"""Shortened runs of the recipes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from photochrom.engine.cli import main
from photochrom.pipelines import ShardSet
from PIL import Image


def run(recipe: str, shards: ShardSet, folder: Path, *overrides: str) -> dict:
    """Trains and evaluates by the commands of a user; returns the result."""
    train = ["train", "--config", recipe, "--data.train", str(shards.root), "--out", str(folder / "run"), *overrides]
    assert main([*train, "--train.device", "cpu", "--train.precision", "fp32"]) == 0
    evaluate = ["evaluate", str(folder / "run"), "--data", str(shards.root), "--out", str(folder / "report")]
    assert main([*evaluate, "--device", "cpu", "--gallery", "1"]) == 0
    (result,) = json.loads((folder / "report" / "summary.json").read_text())["results"]
    return result


def test_the_demo_learns_its_photographs_by_heart(shards: ShardSet, tmp_path: Path) -> None:
    """In a third of its steps and at a quarter of its size, it is as good as the demo must be: 25 % below grey."""
    result = run("demo", shards, tmp_path, "--train.steps", "100", "--data.size", "32")
    assert result["metrics"]["rmse_ab"] < 0.75 * result["baselines"]["grey"]["rmse_ab"]


def test_l2_is_the_run_of_the_original_project(shards: ShardSet, tmp_path: Path) -> None:
    shorter = ["--train.steps", "2", "--train.batch_size", "4", "--data.size", "64", "--model.width", "0.0625"]
    result = run("l2", shards, tmp_path, *shorter)
    # Its loss is taken at the input's resolution, to which the model upsamples for the metric, too.
    assert result["metrics"]["loss"] == pytest.approx(result["metrics"]["rmse_ab"] ** 2, rel=1e-5)


@pytest.mark.parametrize("recipe", ["l2", "focal_l2", "rebalanced_ce", "focal_ce"])
def test_a_recipe_trains_evaluates_and_colorizes(recipe: str, shards: ShardSet, photos: Path, tmp_path: Path) -> None:
    """With its own learning rate, a narrow network and small squashed photographs: the loss of all nine falls."""
    shorter = ["--train.steps", "100", "--train.batch_size", "9", "--data.size", "32", "--data.crop", "squash"]
    result = run(recipe, shards, tmp_path, *shorter, "--model.width", "0.125", "--log.every", "20")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    first, *_, last = [line["train/loss"] for line in lines if "train/loss" in line]
    assert last < 0.98 * first
    assert all(math.isfinite(value) for value in result["metrics"].values())
    assert (
        main(["colorize", "--model", str(tmp_path / "run"), str(photos / "rocket.jpg"), "--out", str(tmp_path / "out")])
        == 0
    )
    grey, colours = (
        np.asarray(Image.open(path).convert("RGB")).astype(int).std(axis=-1).mean()
        for path in (photos / "rocket.jpg", tmp_path / "out" / "rocket.jpg")
    )
    assert 0 < colours < 10 * grey
