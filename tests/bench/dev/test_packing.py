from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from photochrom.bench.dev import packing, storing


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The benchmarks take one thread; the tests after them do not."""
    number = torch.get_num_threads()
    yield
    torch.set_num_threads(number)


def test_every_stage_is_timed_and_a_pack_beside_them(photos: Path) -> None:
    results = packing.measure(packing.PackingOptions(photos=photos, samples=2, short_side=64, seconds=0.01))
    rows = {row["what"]: row for row in results["rows"]}
    stages = ["strict decode", "resize", "Lab of every 4th pixel", "counting colors", "encode"]
    assert list(rows) == [*stages, "all stages"]
    assert all(row["num_rounds"] >= 3 and row["median(ms)"] > 0 for row in rows.values())
    assert "while packing 9 files" in results["verdict"]
    assert sorted(path.name for path in photos.parent.glob("photochrom-*")) == []


def test_a_folder_without_photographs(tmp_path: Path) -> None:
    for module, options in ((packing, packing.PackingOptions), (storing, storing.StoringOptions)):
        with pytest.raises(ValueError, match="holds no"):
            module.measure(options(photos=tmp_path))


def test_coarser_jpegs_cost_more_and_take_less(photos: Path) -> None:
    results = storing.measure(storing.StoringOptions(photos=photos, samples=2, short_side=100))
    rows = {(row["quality"], row["subsampling"]): row for row in results["rows"]}
    assert rows["98", "444"]["rmse_ab"] < rows["75", "444"]["rmse_ab"] < rows["75", "420"]["rmse_ab"]
    assert rows["98", "444"]["KB"] > rows["75", "444"]["KB"] > rows["75", "420"]["KB"]
    scaled = {row["decoded"]: row["rmse_ab"] for row in results["scaled"]}
    assert scaled["full"] == 0
    assert 0 < scaled["at least 2.0x"] <= scaled["at least 1.0x"]
