import json
from pathlib import Path

import pytest
from photochrom.bench.stages import main
from photochrom.pipelines import ShardSet

STAGES = ["photographs to Lab", "forward and loss", "backward", "optimizer"]


def test_every_stage_is_measured(shards: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "stages.json"
    command = [str(shards.root), "--size", "64", "--batch-size", "4", "--width", "0.0625", "--seconds", "0.5"]
    assert main([*command, "--out", str(out), "--device", "cpu"]) == 0
    figures = json.loads(out.read_text())
    assert figures.keys() == {"machine", "versions", "settings", "rows", "verdict"}
    assert [row["stage"] for row in figures["rows"]] == STAGES
    assert sum(row["share(%)"] for row in figures["rows"]) == pytest.approx(100)
    for row in figures["rows"]:
        assert 0 < row["min(ms)"] <= row["median(ms)"] <= row["max(ms)"]
        assert row["num_rounds"] >= 3
    slowest = max(figures["rows"], key=lambda row: row["median(ms)"])
    assert figures["verdict"].startswith(slowest["stage"])
    assert figures["verdict"] in capsys.readouterr().out


def test_a_wider_network_takes_a_larger_share(shards: ShardSet, tmp_path: Path) -> None:
    shares = []
    for width in ("0.015625", "0.5"):
        out = tmp_path / f"{width}.json"
        command = [str(shards.root), "--size", "64", "--batch-size", "4", "--width", width, "--seconds", "1"]
        main([*command, "--out", str(out), "--device", "cpu"])
        shares.append(json.loads(out.read_text())["rows"][0]["share(%)"])
    assert shares[0] > 2 * shares[1]


def test_a_missing_set_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nowhere"]) == 1
    assert "there is no shard set at nowhere" in " ".join(capsys.readouterr().err.split())
