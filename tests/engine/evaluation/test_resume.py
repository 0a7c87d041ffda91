"""Evaluations that are interrupted and continued."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from photochrom.engine.cli import main
from photochrom.engine.evaluation import evaluate
from photochrom.engine.evaluation.row_file import RowFile
from photochrom.pipelines import ShardSet


def test_an_interrupted_evaluation_is_continued(
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
    assert appended == [*range(4), *range(3, 9), *range(6), 8, *range(5, 9)]  # the last row is scored again
    results = json.loads((out / "summary.json").read_text())["results"]
    (expected,) = json.loads((evaluated / "summary.json").read_text())["results"]
    assert [result["metrics"] for result in results] == [pytest.approx(expected["metrics"], rel=1e-5)] * 2
    assert {path.name for path in out.iterdir()} == {
        *("trained-on-nine", "trained-on-nine-2", "report.html", "summary.json", "config.yaml"),
    }
    assert (out / "report.html").read_text().count("<article") == 2
    assert main([*command, "--resume"]) == 1
    assert "holds no unfinished evaluation, perhaps a finished one: name a new folder" in capsys.readouterr().err


def test_another_set_of_the_same_name_is_refused(
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


def test_an_evaluation_without_rows_leaves_no_folder(
    trained: Path, shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RowFile, "append", stop)
    command = ["evaluate", str(trained), "--data", str(shards.root), "--out", str(tmp_path / "out")]
    assert main(command) == 130
    assert not (tmp_path / "out").exists()
