"""The best checkpoint and the end of a run that gets no better, by validations whose values are given."""

import json
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from photochrom.engine.checkpoints.checkpoint import save_checkpoint
from photochrom.engine.checkpoints.model_file import model_file, model_name, read_metadata
from photochrom.engine.console import LiveLine
from photochrom.engine.evaluation.score import ScoringStopped, score
from photochrom.engine.training import loop
from photochrom.engine.training.best import BestValidation
from photochrom.engine.training.run import train
from photochrom.engine.training.shutdown import SIGNALS, LostProcess, RunStopped
from photochrom.pipelines import ShardSet


@pytest.mark.parametrize(
    ("metric", "values", "steps", "num_since"),
    [
        ("rmse_ab", [5, 3, 4, 3], [1, 2, 2, 2], [0, 0, 1, 2]),
        ("psnr", [5, 3, 6, 7], [1, 1, 3, 4], [0, 1, 0, 0]),
        ("loss", [math.inf, 4, math.nan, 3], [0, 2, 2, 4], [1, 0, 1, 0]),
    ],
)
def test_the_best_value(metric: str, values: list[float], steps: list[int], num_since: list[int]) -> None:
    best = BestValidation(metric=metric, data="")
    for step, value in enumerate(values, start=1):
        assert best.update(value, step) == (best.num_since == 0)
        assert (best.step, best.num_since, best.last_step) == (steps[step - 1], num_since[step - 1], step)
    assert not best.is_exhausted(None)
    assert best.is_exhausted(2) == (num_since[-1] == 2)


def test_how_it_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    best, line = BestValidation(metric="rmse_ab", data=""), LiveLine(0, 9000)
    line.show(4000, "loss 5")
    for step, value in ((4000, 13.7), (5000, 13.9)):
        best.update(value, step)
        line.show(step, f"val {best.describe(value)}", "validation")
    line.close()
    assert capsys.readouterr().err.splitlines() == [
        "step 4000/9000  loss 5",
        "step 4000/9000  val ab RMSE 13.70",
        "step 5000/9000  val ab RMSE 13.90 (best 13.70 at 4,000)",
    ]


Script = Callable[..., None]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Gives the validations to come their values of ab RMSE; an error in place of a value is raised."""

    def script(*values: float | Exception) -> None:
        rest = iter(values)

        def score(*_: Any, stop: Callable[[], bool]) -> dict[str, float]:
            value = next(rest)
            if isinstance(value, ScoringStopped):
                signal.raise_signal(signal.SIGTERM)
                time.sleep(0.2)
                assert stop()
            if isinstance(value, Exception):
                raise value
            return {"rmse_ab": value, "psnr": -value}

        monkeypatch.setattr(loop, "score", score)

    return script


@pytest.fixture
def settings(shards: ShardSet) -> dict[str, Any]:
    settings = {"data__val": shards.root, "log__validate_every": 2, "log__preview_every": 99, "log__every": 5}
    return {**settings, "checkpoint__best": "rmse_ab", "checkpoint__keep": 1, "train__patience": 2, "train__steps": 12}


def checkpoints(run: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (run / "checkpoints").iterdir())


def validations(run: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    values = [(line["step"], line["val/rmse_ab"]) for line in lines if "val/rmse_ab" in line]
    assert len(dict(values)) == len(values)
    return dict(values)


def test_the_best_is_kept_and_a_run_that_gets_no_better_ends(
    configure, settings: dict[str, Any], script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    script(5, 3, 4, 4.5)
    summary = train(configure(run, **settings))
    assert summary["steps"] == 8
    assert summary["best"] == {"metric": "rmse_ab", "value": 3, "step": 4, "checkpoint": str(run / "best")}
    assert json.loads((run / "summary.json").read_text()) == summary
    assert checkpoints(run) == [4, 8]
    assert (run / "best").resolve() == run / "checkpoints" / "step-00000004"
    assert (read_metadata(model_file(run / "best")).step, read_metadata(model_file(run)).step) == (4, 8)
    assert model_name(run / "best") == "run-step-00000004"
    messages = capsys.readouterr().err.splitlines()
    assert "step 6/12  val ab RMSE 4.00 (best 3.00 at 4)" in messages
    assert messages[-1] == (
        f"ended at step 8: 2 validations without a better ab RMSE than 3.00 of step 4, kept in {run / 'best'}"
    )
    assert train(configure(run, **settings))["steps"] == 8
    assert capsys.readouterr().err == (
        f"the run in {run} is finished, at step 8: 2 validations without a better ab RMSE than 3.00 of step 4, kept in "
        f"{run / 'best'}; ask for more with --train.patience\n"
    )
    script(2.5, 6)
    assert train(configure(run, **{**settings, "train__patience": 3}))["best"]["step"] == 10
    assert checkpoints(run) == [10, 12]


def test_a_run_whose_validations_are_all_nan_ends_without_a_best(
    configure, settings: dict[str, Any], script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    script(math.nan, math.nan)
    summary = train(configure(run, **settings))
    assert summary["best"] == {"metric": "rmse_ab", "value": None, "step": 0, "checkpoint": None}
    assert not (run / "best").is_symlink()
    ended = capsys.readouterr().err.splitlines()[-1]
    assert ended == "ended at step 4: 2 validations without a finite ab RMSE"


def test_a_best_checkpoint_that_cannot_be_saved_does_not_count(
    configure,
    settings: dict[str, Any],
    script: Script,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Step 4 is the best, and the disk is full then; of those that are kept, step 8 is."""

    def no_space(root: Path, step: int, **state: Any) -> Path:
        if step == 4:
            raise OSError(28, "No space left on device", str(root))
        return save_checkpoint(root, step, **state)

    monkeypatch.setattr("photochrom.engine.training.async_checkpoint.save_checkpoint", no_space)
    run = tmp_path / "run"
    script(5, 3, 6, 4, 4.5, 4.6)
    summary = train(configure(run, **settings, checkpoint__every=6))
    assert summary["best"] == {"metric": "rmse_ab", "value": 4, "step": 8, "checkpoint": str(run / "best")}
    assert (run / "best").resolve() == run / "checkpoints" / "step-00000008"
    assert summary["steps"] == 12
    messages = capsys.readouterr().err.splitlines()
    assert any(line.startswith("the checkpoint of step 4 was not saved ([Errno 28]") for line in messages)
    assert "step 6/12  val ab RMSE 6.00 (best 5.00 at 2)" in messages


def test_the_best_survives_resuming(configure, settings: dict[str, Any], script: Script, tmp_path: Path) -> None:
    run = tmp_path / "run"
    script(5, 3, 4, 4.5)
    for steps in (4, 6, 12):
        train(configure(run, **{**settings, "train__steps": steps}))
    assert validations(run) == {2: 5, 4: 3, 6: 4, 8: 4.5}
    assert checkpoints(run) == [4, 8]


def test_an_interrupted_validation_is_repeated(
    configure, settings: dict[str, Any], script: Script, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    script(5, ScoringStopped(), 3, 4, 4.5)
    with pytest.raises(RunStopped, match="stopped and saved at step 4"):
        train(configure(run, **settings))
    assert checkpoints(run) == [2, 4]
    with open(run / "metrics.jsonl", "a") as file:  # as if a kill had followed the repetition
        file.write('{"step": 4, "val/rmse_ab": 3}\n')
    assert train(configure(run, **settings))["best"]["step"] == 4
    assert validations(run) == {2: 5, 4: 3, 6: 4, 8: 4.5}
    assert checkpoints(run) == [4, 8]


def test_a_validation_that_fails_costs_no_training(
    configure, settings: dict[str, Any], script: Script, tmp_path: Path
) -> None:
    script(5, ValueError("a photograph cannot be decoded"))
    with pytest.raises(ValueError, match="a photograph cannot be decoded"):
        train(configure(tmp_path / "run", **settings))
    assert checkpoints(tmp_path / "run") == [2, 4]


def test_a_validation_that_fails_stops_the_other_processes(
    configure, settings: dict[str, Any], script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    monkeypatch.setattr(loop, "all_reduce_max", lambda value, device: sent.append(value))
    script(ValueError("a photograph cannot be decoded"))
    with pytest.raises(ValueError, match="a photograph cannot be decoded"):
        train(configure(tmp_path / "run", **settings))
    assert sent == [255]
    monkeypatch.setattr(loop, "all_reduce_max", lambda value, device: max(value, 255))
    monkeypatch.setattr(loop, "score", score)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    with pytest.raises(LostProcess, match="another process failed in the validation of step 2: it says why"):
        train(configure(tmp_path / "other", **settings))
    for number, handler in handlers.items():  # a survivor ignores signals at its end
        signal.signal(number, handler)
    assert checkpoints(tmp_path / "other") == [2]


def test_results_that_were_not_written_are_written_later(
    configure, settings: dict[str, Any], script: Script, tmp_path: Path
) -> None:
    script(5, 6, 7)
    expected = train(configure(tmp_path / "run", **settings))
    for name in ("model.safetensors", "summary.json"):
        (tmp_path / "run" / name).unlink()
    again = train(configure(tmp_path / "run", **settings))
    assert {**again, "provenance": None} == {**expected, "provenance": None}
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_best_checkpoint_that_is_gone_does_not_count(
    configure, settings: dict[str, Any], script: Script, tmp_path: Path
) -> None:
    """As where a run goes on in another folder."""
    script(5, 3, 4, 4.5, 4.6)
    train(configure(tmp_path / "run", **{**settings, "train__steps": 6}))
    other = {**settings, "resume": str(tmp_path / "run")}
    assert train(configure(tmp_path / "other", **{**other, "train__steps": 10}))["best"]["value"] == 4.5
    assert checkpoints(tmp_path / "other") == [8, 10]


def test_validations_before_a_time_without_a_set_stay_in_the_log(
    configure, settings: dict[str, Any], script: Script, tmp_path: Path
) -> None:
    run, without = tmp_path / "run", {"data__val": None, "checkpoint__best": None, "train__patience": None}
    script(5, 3)
    train(configure(run, **{**settings, "train__steps": 2}))
    train(configure(run, **{**settings, **without, "train__steps": 4}))
    train(configure(run, **{**settings, "train__steps": 6}))
    assert validations(run) == {2: 5, 6: 3}


def test_another_metric_starts_over(configure, settings: dict[str, Any], script: Script, tmp_path: Path) -> None:
    script(5, 3, 4, 4.5)
    train(configure(tmp_path / "run", **{**settings, "train__steps": 6}))
    changed = {**settings, "checkpoint__best": "psnr", "train__steps": 8}
    assert train(configure(tmp_path / "run", **changed))["best"] == {
        "metric": "psnr",
        "value": -4.5,
        "step": 8,
        "checkpoint": str(tmp_path / "run" / "best"),
    }


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"data__val": None}, r"checkpoint.best=rmse_ab needs photographs to validate on: add --data.val SHARDS"),
        ({"checkpoint__best": None}, r"train.patience=2 needs a metric: add --checkpoint.best rmse_ab"),
        (
            {"checkpoint__best": "ab_rmse"},
            r"checkpoint.best=ab_rmse is not .*; did you mean rmse_ab\? Known are loss, rmse_ab, .*, auc, ",
        ),
        ({"checkpoint__best": "chroma"}, r"checkpoint.best=chroma is not a metric that has a best value. Known are"),
        ({"train__patience": 0}, r"train.patience=0 is not a positive number"),
    ],
)
def test_a_best_without_metric_or_photographs_is_refused(
    configure, settings: dict[str, Any], tmp_path: Path, changed: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        train(configure(tmp_path / "run", **{**settings, **changed}))
    assert not (tmp_path / "run").exists()
