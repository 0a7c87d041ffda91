from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from photochrom.bench.dev import packing


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Restores the number of threads that the benchmark sets."""
    number = torch.get_num_threads()
    yield
    torch.set_num_threads(number)


def test_every_stage_and_a_pack_are_timed(photos: Path) -> None:
    results = packing.measure(packing.PackingOptions(photos=photos, samples=2, short_side=64, seconds=0.01))
    rows = {row["what"]: row for row in results["rows"]}
    stages = ["strict decode", "resize", "Lab of every 4th pixel", "counting colors", "encode"]
    assert list(rows) == [*stages, "all stages"]
    assert all(row["num_rounds"] >= 3 and row["median(ms)"] > 0 for row in rows.values())
    assert "while packing 9 files" in results["verdict"]
    assert sorted(path.name for path in photos.parent.glob("photochrom-*")) == []


def test_a_folder_without_photographs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no"):
        packing.measure(packing.PackingOptions(photos=tmp_path))
