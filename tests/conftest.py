"""Real photographs for the tests: those that come in scikit-image's wheel."""

import shutil
import signal
from pathlib import Path

import pytest
import skimage
import torch
from accelerate.state import AcceleratorState
from photochrom.losses import ab_histogram
from photochrom.pipelines import PackConfig, ShardSet, pack

# A shell that starts the suite in the background ignores Ctrl-C for it, and so for the commands that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
    "rocket.jpg",
)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of nine colour photographs, two of them in a subfolder."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "garage").mkdir()
    for name in PHOTOGRAPHS:
        target = folder / "garage" / name if name.startswith("motorcycle") else folder / name
        shutil.copy(Path(skimage.__file__).parent / "data" / name, target)
    return folder


@pytest.fixture(scope="session")
def shards(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """The nine photographs packed at a short side of 96, in three shards."""
    out = tmp_path_factory.mktemp("packed") / "nine"
    pack(PackConfig(source=photos, out=out, short_side=96, shard_samples=4, workers=2), ab_histogram=ab_histogram)
    return ShardSet.open(out)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> None:
    """Accelerate keeps its settings in a singleton, which would carry one test's precision into the next."""
    AcceleratorState._reset_state(reset_partial_state=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and this machine has none"))
