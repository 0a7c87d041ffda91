import json
import os
import sys

import numpy as np
import pytest
from photochrom.engine.commands.stats import main
from photochrom.losses import ab_bins
from photochrom.pipelines import ShardSet
from photochrom.pipelines.packing.stats import stats


def test_figures_are_those_of_the_shard_set(shards: ShardSet) -> None:
    values = stats(shards)
    sizes = [shards.sample(i).size for i in range(9)]
    assert values["photographs"] == "9"
    num_bytes = sum(path.stat().st_size for path in shards.root.glob("*.tar"))
    assert values["shards"] == f"3, {num_bytes / 1e9:.3f} GB"
    widths = [width for width, _ in sizes]
    assert values["width"] == f"{min(widths)} to {max(widths)}, median {np.median(widths):g}"
    assert values["height"].startswith("96 to ")
    assert (values["classes"], values["  (none)"], values["  garage"]) == ("2", "7", "2")
    chroma = sum(share * float(np.hypot(*ab)) for share, ab in zip(shards.prior, ab_bins().tolist(), strict=True))
    assert values["mean chroma"] == f"{chroma:.1f} Lab units"


def test_grey_is_counted_whether_dropped_or_kept(shards: ShardSet) -> None:
    manifest = json.loads((shards.root / "manifest.json").read_text())
    manifest["counts"] |= {"grey": 1, "dropped": {"grey": 2, "duplicate": 1}}
    values = stats(ShardSet(shards.root, manifest))
    assert values["grey"] == "25.00 % of all photographs; 2 dropped"


def test_rare_classes_are_counted_together(shards: ShardSet) -> None:
    manifest = json.loads((shards.root / "manifest.json").read_text())
    values = stats(ShardSet(shards.root, manifest | {"classes": {str(i): 100 - i for i in range(13)}}))
    assert (values["classes"], values["  0"], values["  and others"]) == ("13", "100", "3")
    assert "  10" not in values


def test_the_command(shards: ShardSet, capsys: pytest.CaptureFixture[str]) -> None:
    """It writes nothing: a set may lie where nothing can be written."""
    before = {path: path.stat().st_mtime_ns for path in [shards.root, *shards.root.rglob("*")]}
    assert main([str(shards.root)]) == 0
    assert {path: path.stat().st_mtime_ns for path in [shards.root, *shards.root.rglob("*")]} == before
    printed = capsys.readouterr().out
    assert "photographs" in printed
    assert "garage" in printed


def test_a_set_that_cannot_be_written_is_described(shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written to it, as to a read-only share."""
    opened = []
    sys.addaudithook(lambda event, args: opened.append(args) if event == "open" and not done else None)
    done: list[bool] = []
    try:
        assert main([str(shards.root)]) == 0
    finally:
        done.append(True)
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    assert [args for args in opened if str(args[0]).startswith(str(shards.root)) and args[2] & writing] == []
    assert any(str(args[0]).startswith(str(shards.root)) for args in opened)
