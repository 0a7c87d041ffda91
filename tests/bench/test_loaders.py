import importlib.util
import json
from pathlib import Path

import pytest
from photochrom.bench.loaders import CONTESTANTS, main
from photochrom.bench.rivals import RIVALS


def test_contestants_take_turns_at_the_same_work(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, work = tmp_path / "loaders.json", tmp_path / "work"
    only = "original:files:squash,TorchLoader:squashed,ffcv_jpg:beton:squash"
    # Every batch is the whole set, so that means can be compared.
    settings = ["--size", "64", "--batch-size", "9", "--threads", "1", "--seconds", "0.1", "--rounds", "1"]
    assert main([str(photos), *settings, "--only", only, "--work", str(work), "--out", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert figures["num_photographs"] == 9
    rows = {row["loader"]: row for row in figures["rows"]}
    assert {"original", "TorchLoader"} <= rows.keys()
    for row in rows.values():
        assert 0 < row["min(images/s)"] <= row["median(images/s)"] <= row["max(images/s)"]
        assert row["ratio"] == pytest.approx(row["median(images/s)"] / rows["original"]["median(images/s)"])
        assert row["num_rounds"] == 1
        assert row["cpu(ms/image)"] > 0
        assert row["first_batch(s)"] > 0
        assert row["mean_L"] == pytest.approx(rows["original"]["mean_L"], abs=1)
        assert row["mean_abs_ab"] == pytest.approx(rows["original"]["mean_abs_ab"], abs=1)
        assert "torch" in row["versions"]
    if importlib.util.find_spec("ffcv") is None:
        assert [(each["loader"], "ffcv" in each["reason"]) for each in figures["skipped"]] == [("ffcv_jpg", True)]
    assert figures["verdict"] in capsys.readouterr().out

    assert main([str(photos), *settings, "--size", "32", "--only", "original", "--work", str(work)]) == 1
    assert "name another folder" in " ".join(capsys.readouterr().err.split())


def test_an_unknown_contestant_is_answered_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["nowhere", "--only", "original,webdataset"])
    said = capsys.readouterr().err
    assert "no contestant is called webdataset" in said
    assert all(name in said for each in CONTESTANTS for name in each.names[:2])


def test_too_few_photographs_for_a_batch(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(photos), "--size", "500", "--only", "original"]) == 1
    assert "too few for a batch of 32" in " ".join(capsys.readouterr().err.split())


def test_every_rival_takes_part_in_both_jobs() -> None:
    assert {(name, job) for name in RIVALS for job in ("squash", "random_resized")} <= {
        (each.loader, each.job) for each in CONTESTANTS
    }
