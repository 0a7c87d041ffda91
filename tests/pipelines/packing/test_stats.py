import json
from pathlib import Path

import numpy as np
import pytest
from photochrom.engine.commands.stats import main
from photochrom.losses import ab_bins
from photochrom.pipelines import ShardSet
from photochrom.pipelines.packing.stats import plot_ab_distribution, stats
from PIL import Image


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


def test_the_picture_shows_where_the_colours_are(shards: ShardSet, tmp_path: Path) -> None:
    plot_ab_distribution(shards, tmp_path / "ab.png")
    picture = np.asarray(Image.open(tmp_path / "ab.png").convert("RGB")).astype(int)
    assert picture.shape[:2] == (500, 1100)
    red, green, blue = picture[:, 600:].reshape(-1, 3).T
    assert ((green > red + 40) & (green > blue + 40)).any()
    assert ((blue > red + 40) & (blue > green + 20)).any()


def test_the_command(shards: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(shards.root), "--out", str(tmp_path / "ab.png")]) == 0
    printed = capsys.readouterr().out
    assert "photographs" in printed
    assert "garage" in printed
    assert (tmp_path / "ab.png").exists()
