"""One evaluation that many tests share."""

import csv
from pathlib import Path

import pytest
from photochrom.engine.cli import main
from photochrom.engine.evaluation import report
from photochrom.pipelines import DaliLoader, LabBatch, ShardSet


@pytest.fixture(scope="session")
def evaluated(trained: Path, shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an evaluation of `trained` on its training set."""
    out = tmp_path_factory.mktemp("evaluated") / "out"
    assert main(["evaluate", str(trained), "--data", str(shards.root), "--out", str(out), "--gallery", "3"]) == 0
    return out


@pytest.fixture(scope="session")
def image_rows(evaluated: Path) -> list[dict[str, str]]:
    """The lines of per_image.csv of `evaluated`."""
    with open(evaluated / "trained-on-nine" / "per_image.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def batch(shards: ShardSet) -> LabBatch:
    """All photographs of `shards` as `evaluated` sees them."""
    return next(iter(DaliLoader(shards, batch_size=9, size=32, train=False)))


@pytest.fixture(autouse=True)
def _no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips the histograms, which take most of the time on so small a set. The report of `evaluated` has them."""
    monkeypatch.setattr(report, "histogram", lambda *_: "data:image/svg+xml,")
