import numpy as np
import pytest
from numpy.typing import NDArray
from photochrom.pipelines.loading.augment import Crop, crop_windows, flips
from scipy.stats import ks_2samp

SIZES = np.array([[96, 144], [144, 96], [96, 96], [97, 4000], [96, 97]])


def windows(
    crop: Crop, sizes: NDArray[np.int64], n: int, size: int = 64, seed: int = 0, epoch: int = 0
) -> NDArray[np.int64]:
    index = np.arange(n)
    return crop_windows(
        crop, sizes[index % len(sizes)], index, np.full(n, epoch), size=size, seed=seed, scale=(0.25, 1.0)
    )


@pytest.mark.parametrize("crop", ["random_resized", "random", "center", "squash"])
def test_windows_lie_inside_the_photograph(crop: Crop) -> None:
    corner, shape = np.split(windows(crop, SIZES, 5000), 2, axis=1)
    assert (corner >= 0).all()
    assert (shape >= 1).all()
    assert (corner + shape <= SIZES[np.arange(5000) % len(SIZES)]).all()


def test_squash_is_the_whole_photograph_and_center_its_largest_square() -> None:
    assert windows("squash", SIZES, 2).tolist() == [[0, 0, 96, 144], [0, 0, 144, 96]]
    assert windows("center", SIZES, 2).tolist() == [[0, 24, 96, 96], [24, 0, 96, 96]]


def test_random_windows_reach_every_place_evenly() -> None:
    corner, shape = np.split(windows("random", np.array([[66, 66]]), 9000), 2, axis=1)
    assert (shape == 64).all()
    _, counts = np.unique(corner, axis=0, return_counts=True)
    assert len(counts) == 9
    assert ((counts - 1000) ** 2 / 1000).sum() < 26  # chi-square, 8 degrees of freedom, p = 0.001


def test_random_resized_keeps_its_ranges() -> None:
    _, _, height, width = windows("random_resized", np.array([[300, 400]]), 20000).T
    share, aspect = height * width / 120000, width / height
    assert share.min() > 0.248
    assert share.max() <= 1
    assert aspect.min() > 0.74
    assert aspect.max() < 1.35


def test_random_resized_is_distributed_as_torchvision_s() -> None:
    drawn = windows("random_resized", np.array([[300, 400]]), 5000)
    expected = np.array([random_resized_crop(300, 400, np.random.default_rng(i)) for i in range(5000)])
    for column in range(4):
        assert ks_2samp(drawn[:, column], expected[:, column]).pvalue > 0.001


def random_resized_crop(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """RandomResizedCrop.get_params of torchvision, written from its documentation."""
    for _ in range(10):
        area = height * width * rng.uniform(0.25, 1.0)
        aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w
    raise AssertionError("ten candidates in a row that do not fit")


def test_random_resized_falls_back_to_the_largest_allowed_aspect() -> None:
    (window,) = crop_windows(
        "random_resized",
        np.array([[10, 1000]]),
        np.array([0]),
        np.array([0]),
        size=8,
        seed=0,
        scale=(1.0, 1.0),
    )
    assert window[2:].tolist() == [10, 13]


def test_windows_are_pure_functions_of_seed_epoch_and_sample() -> None:
    alone = crop_windows("random_resized", SIZES[[3]], np.array([3]), np.array([0]), size=64, seed=0, scale=(0.25, 1.0))
    assert alone.tolist() == windows("random_resized", SIZES, 5)[[3]].tolist()
    assert windows("random", SIZES, 50, seed=1).tolist() != windows("random", SIZES, 50, seed=0).tolist()
    assert windows("random", SIZES, 50, epoch=1).tolist() != windows("random", SIZES, 50, epoch=0).tolist()


def test_half_of_the_photographs_are_flipped() -> None:
    flipped = flips(np.arange(10000), np.zeros(10000, dtype=np.int64), seed=0)
    assert abs(flipped.mean() - 0.5) < 0.02
    again = flips(np.arange(10000), np.ones(10000, dtype=np.int64), seed=0)
    assert 0.4 < (flipped == again).mean() < 0.6
