import json

import numpy as np
import pytest
from photochrom.engine.commands.stats import main
from photochrom.losses import ab_bins
from photochrom.pipelines import ShardSet
from photochrom.pipelines.packing.stats import stats


def test_figures_are_those_of_the_shard_set(shards: ShardSet) -> None:
    values = stats(shards)
    sizes = [shards.sample(i).size for i in range(9)]
    assert values["num_photographs"] == 9
    assert values["num_shards"] == 3
    assert values["bytes"] == sum(path.stat().st_size for path in shards.root.glob("*.tar"))
    widths = [width for width, _ in sizes]
    assert values["width"] == {"min": min(widths), "median": float(np.median(widths)), "max": max(widths)}
    assert values["height"]["min"] == 96
    assert values["classes"] == {"": 7, "garage": 2}
    chroma = sum(share * float(np.hypot(*ab)) for share, ab in zip(shards.prior, ab_bins().tolist(), strict=True))
    assert values["mean_chroma"] == pytest.approx(chroma)
    assert json.loads(json.dumps(values)) == values


def test_grey_is_counted_whether_dropped_or_kept(shards: ShardSet) -> None:
    manifest = json.loads((shards.root / "manifest.json").read_text())
    manifest["counts"] |= {"grey": 1, "dropped": {"grey": 2, "duplicate": 1}}
    values = stats(ShardSet(shards.root, manifest))
    assert values["grey_percent"] == pytest.approx(100 * 3 / 12)


def test_the_command(shards: ShardSet, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(shards.root)]) == 0
    printed = capsys.readouterr().out
    assert "photographs" in printed
    assert "garage" in printed
