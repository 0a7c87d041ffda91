"""Crop windows and flips: pure functions of (seed, epoch, sample index), the same for every loader, rank and resume."""

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .hashing import uniform

Crop = Literal["random_resized", "random", "center", "squash"]

# One number per use, so that adding a use changes none of the others.
_AREA, _ASPECT, _TOP, _LEFT, _FLIP = range(5)
_ATTEMPTS = 10  # as in torchvision's RandomResizedCrop


def crop_windows(
    crop: Crop,
    sizes: NDArray[np.int64],
    index: NDArray[np.int64],
    epoch: NDArray[np.int64],
    *,
    size: int,
    seed: int,
    scale: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> NDArray[np.int64]:
    """The window (n, 4) of each sample, as top, left, height and width in pixels, to be resized to size x size.

    `sizes` (n, 2) holds each photograph's height and width; `index` and `epoch` (n,) say which sample in which epoch.

    - random_resized: a share `scale` of the area, at an aspect `ratio` (Szegedy et al., CVPR 2015)
    - random: a window of size x size pixels, so that nothing is resized
    - center: the largest centred square
    - squash: the whole photograph, its aspect ratio lost, as the original project does

    Raises ValueError for `random` when a photograph is smaller than the window.
    """
    key = (seed, epoch, index)
    match crop:
        case "squash":
            return np.concatenate([np.zeros_like(sizes), sizes], axis=1)
        case "center":
            side = sizes.min(axis=1, keepdims=True)
            return np.concatenate([(sizes - side) // 2, side, side], axis=1)
        case "random":
            if sizes.min() < size:
                height, width = sizes[sizes.min(axis=1).argmin()].tolist()
                raise ValueError(f"crop=random cannot cut {size}x{size} pixels from a photograph of {width}x{height}")
            shape = np.full_like(sizes, size)
            return np.concatenate([_placed(sizes, shape, key), shape], axis=1)
        case "random_resized":
            shape = _random_shapes(sizes, key, scale, ratio)
            return np.concatenate([_placed(sizes, shape, key), shape], axis=1)
    raise ValueError(f"crop={crop!r} is unknown; known are {', '.join(get_args(Crop))}")


def flips(index: NDArray[np.int64], epoch: NDArray[np.int64], *, seed: int) -> NDArray[np.bool_]:
    """Whether each sample (n,) is mirrored left to right: one time in two."""
    return uniform(seed, epoch, index, _FLIP) < 0.5


def _placed(sizes: NDArray[np.int64], shape: NDArray[np.int64], key: tuple[Any, ...]) -> NDArray[np.int64]:
    """Top left corners (n, 2) of windows of `shape` (n, 2), uniform over all places in the photograph."""
    where = np.stack([uniform(*key, _TOP), uniform(*key, _LEFT)], axis=1)
    return (where * (sizes - shape + 1)).astype(np.int64)


def _random_shapes(
    sizes: NDArray[np.int64], key: tuple[Any, ...], scale: tuple[float, float], ratio: tuple[float, float]
) -> NDArray[np.int64]:
    """Heights and widths (n, 2): the first of ten candidates that fits, or the largest window of an allowed aspect."""
    seed, epoch, index = key
    attempt = np.arange(_ATTEMPTS)
    key = (seed, epoch[:, None], index[:, None])
    area = sizes.prod(axis=1)[:, None] * (scale[0] + (scale[1] - scale[0]) * uniform(*key, _AREA, attempt))
    low, high = np.log(ratio)
    aspect = np.exp(low + (high - low) * uniform(*key, _ASPECT, attempt))
    shapes = np.stack([np.sqrt(area / aspect), np.sqrt(area * aspect)], axis=2).round().astype(np.int64)
    fits = np.all((shapes > 0) & (shapes <= sizes[:, None]), axis=2)

    height, width = sizes[:, 0], sizes[:, 1]
    clipped = (width / height).clip(*ratio)
    fallback = np.stack([np.minimum(height, width / clipped), np.minimum(width, height * clipped)], axis=1)
    chosen = shapes[np.arange(len(sizes)), fits.argmax(axis=1)]
    return np.where(fits.any(axis=1)[:, None], chosen, fallback.round().astype(np.int64).clip(1))
