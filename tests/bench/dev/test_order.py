import json
from pathlib import Path

import pytest
from photochrom.bench.dev.order import batch_overlap, main
from photochrom.pipelines import ShardSet


def test_every_block_is_measured(shards: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "order.json"
    settings = ["--batch-size", "3", "--batches", "3", "--rounds", "2", "--blocks", "1", "2", "--out", str(out)]
    assert main([str(shards.root), *settings]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [(row["block"], row["num_rounds"]) for row in rows] == [("1", 2), ("2", 2)]
    assert "relative to chance" in capsys.readouterr().out


def test_batch_overlap_grows_with_blocks() -> None:
    assert batch_overlap(20_000, 200, 1) == pytest.approx(1, abs=0.03)
    assert batch_overlap(20_000, 200, 10_000) == pytest.approx(1, abs=0.03)  # two blocks are mixed completely
    assert batch_overlap(256 * 128, 512, 4) > 1.005  # a batch takes whole groups of blocks
