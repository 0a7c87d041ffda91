import json
import sys
from pathlib import Path

import pytest
import yaml
from photochrom.bench.command import main
from photochrom.bench.loader.command import LoaderOptions, apply
from photochrom.bench.loader.measurement import Measurement, Setting, by_queue, by_threads, fastest
from photochrom.engine.commands.train import parse
from photochrom.pipelines import ShardSet

BASE = Setting(backend="dali", threads=2, prefetch_batches=2, batch_size=8)


def measurements(**throughputs: float) -> dict[Setting, list[Measurement]]:
    """Returns a measured setting for each backend."""
    return {
        Setting(backend=name, threads=1, prefetch_batches=2, batch_size=8): [Measurement(wall=1 / throughput, cpu=0.0)]
        for name, throughput in throughputs.items()
    }


def test_from_the_command_line(shards: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, recipe = tmp_path / "loader.json", tmp_path / "fast.yaml"
    command = ["loader", "--config", "demo", "--data", str(shards.root), "--seconds", "1", "--data.size", "32"]
    command += ["--train.batch_size", "4", "--train.device", "cpu", "--loader.threads", "1"]
    assert main([*command, "--out", str(out), "--apply", str(recipe)]) == 0
    results = json.loads(out.read_text())
    assert results["configured"] == {"backend": "dali", "threads": 1, "prefetch_batches": 2, "batch_size": 4}
    assert {row["backend"] for row in results["rows"]} == {"dali", "torch"}
    assert {row["prefetch_batches"] for row in results["rows"]} == {1, 2, 4}
    assert {row["batch_size"] for row in results["rows"]} == {2, 4, 8}
    for row in results["rows"]:
        assert 0 < row["min(img/s)"] <= row["median(img/s)"] <= row["max(img/s)"]
        assert row["cpu(ms/img)"] > 0
        assert row["num_rounds"] >= 3
    assert [row["stage"] for row in results["stages"]] == ["read", "decode", "crop and resize", "Lab"]
    assert all(row["median(us/img)"] > 0 for row in results["stages"])
    assert results["verdict"] in capsys.readouterr().out

    best = max((row for row in results["rows"] if row["batch_size"] == 4), key=lambda row: row["median(img/s)"])
    assert results["fastest"] == {name: best[name] for name in results["fastest"]}
    best = best if results["is_beyond_noise"] else results["configured"]
    config = parse(["--config", "demo", "--config", str(recipe), "--out", "x", "--data.train", "y"])
    chosen = (config.loader.backend, config.loader.threads, config.loader.prefetch_batches)
    assert chosen == (best["backend"], best["threads"], best["prefetch_batches"])
    LoaderOptions(data="x", apply=recipe)  # a file that bench loader has written may be replaced


def test_the_swept_settings() -> None:
    swept = by_threads(BASE, cores=6)
    assert {setting.threads for setting in swept} == {1, 2, 4, 6}
    assert swept[0] == BASE
    around = list(by_queue(BASE, measurements(dali=1.0, torch=2.0)))
    assert {(setting.prefetch_batches, setting.batch_size) for setting in around} == {
        (1, 8),
        (2, 8),
        (4, 8),
        (2, 4),
        (2, 16),
    }
    assert {setting.backend for setting in around} == {"dali", "torch"}


def test_the_fastest_setting_has_the_configured_batch_size() -> None:
    larger = Setting(backend="dali", threads=1, prefetch_batches=2, batch_size=16)
    measured = measurements(dali=1.0, torch=2.0) | {larger: [Measurement(wall=0.1, cpu=0.0)]}
    assert fastest(measured, 8).backend == "torch"


def test_a_file_of_the_user_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("loader:\n  threads: 3  # what I like\n")
    with pytest.raises(SystemExit, match="2"):
        sys.exit(main(["loader", "--data", "x", "--apply", str(mine)]))
    assert f"--apply {mine} exists and was not written by bench loader: name a new file" in capsys.readouterr().err
    assert "what I like" in mine.read_text()
    with pytest.raises(SystemExit, match="2"):
        sys.exit(main(["loader", "--data", "x", "--apply", str(tmp_path / "nowhere" / "x.yaml")]))
    assert "is in a folder that does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("beyond", [True, False])
def test_noise_does_not_change_the_recipe(beyond: bool, tmp_path: Path) -> None:
    settings = {
        name: {"backend": name, "threads": 1, "prefetch_batches": 2, "batch_size": 8} for name in ("dali", "torch")
    }
    results = {"fastest": settings["torch"], "configured": settings["dali"], "is_beyond_noise": beyond, "verdict": "so"}
    apply(results, tmp_path / "fast.yaml")
    written = yaml.safe_load((tmp_path / "fast.yaml").read_text())
    assert written == {"loader": {"backend": "torch" if beyond else "dali", "threads": 1, "prefetch_batches": 2}}
