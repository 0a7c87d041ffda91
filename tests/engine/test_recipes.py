"""The recipes do what they are for, shortened."""

import json
from pathlib import Path

import pytest
from photochrom.engine.cli import main
from photochrom.pipelines import ShardSet


def run(recipe: str, shards: ShardSet, folder: Path, *overrides: str) -> dict:
    """Trains and evaluates by the commands that a user would type; returns the result."""
    train = ["train", "--config", recipe, "--data.train", str(shards.root), "--out", str(folder / "run"), *overrides]
    assert main([*train, "--train.device", "cpu"]) == 0
    evaluate = ["evaluate", str(folder / "run"), "--data", str(shards.root), "--out", str(folder / "report")]
    assert main([*evaluate, "--device", "cpu"]) == 0
    (result,) = json.loads((folder / "report" / "summary.json").read_text())["results"]
    return result


def test_the_demo_learns_its_photographs_by_heart(shards: ShardSet, tmp_path: Path) -> None:
    """In a third of its steps, at half its size, it is where the whole demo must be: 25 % below grey."""
    result = run("demo", shards, tmp_path, "--train.steps", "100", "--data.size", "64")
    assert result["metrics"]["rmse_ab"] < 0.75 * result["baselines"]["grey"]["rmse_ab"]


def test_l2_is_the_run_of_the_original_project(shards: ShardSet, tmp_path: Path) -> None:
    shorter = ["--train.steps", "2", "--train.batch_size", "4", "--data.size", "64", "--model.width", "0.0625"]
    result = run("l2", shards, tmp_path, *shorter)
    # Its loss is taken at the input's resolution, bicubically; the metric upsamples bilinearly.
    assert result["metrics"]["loss"] == pytest.approx(result["metrics"]["rmse_ab"] ** 2, rel=0.05)
