"""Crop windows and flips: pure functions of (seed, epoch, sample), equal in every loader, rank and resumed run."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .hashing import uniform

Crop = Literal["random_resized", "random", "center", "squash"]

# One number per use of randomness: a new use does not change the others.
_AREA, _ASPECT, _TOP, _LEFT, _FLIP = range(5)
# As in torchvision's RandomResizedCrop.
_RATIO = (3 / 4, 4 / 3)
_ATTEMPTS = 10


def crop_windows(
    crop: Crop,
    sizes: NDArray[np.int64],
    index: NDArray[np.int64],
    epoch: NDArray[np.int64],
    *,
    size: int,
    seed: int,
    scale: tuple[float, float],
) -> NDArray[np.int64]:
    """Returns each sample's window (n, 4) as top, left, height, width in pixels. It will be resized to size x size.

    `sizes` (n, 2) holds each photograph's height and width; `index` and `epoch` (n,) are the samples and their epochs.

    - random_resized: a share `scale` of the area, at an aspect from 3:4 to 4:3 (Szegedy et al., CVPR 2015)
    - random: a window of size x size pixels, so that nothing is resized; no photograph may be smaller
    - center: the largest centred square
    - squash: the whole photograph, without its aspect ratio, like the original project
    """
    key = (seed, epoch, index)
    match crop:
        case "squash":
            return np.concatenate([np.zeros_like(sizes), sizes], axis=1)
        case "center":
            side = sizes.min(axis=1, keepdims=True)
            return np.concatenate([(sizes - side) // 2, side, side], axis=1)
        case "random":
            shape = np.full_like(sizes, size)
            return np.concatenate([_random_corners(sizes, shape, key), shape], axis=1)
        case "random_resized":
            shape = _random_shapes(sizes, key, scale)
            return np.concatenate([_random_corners(sizes, shape, key), shape], axis=1)


def flips(index: NDArray[np.int64], epoch: NDArray[np.int64], *, seed: int) -> NDArray[np.bool_]:
    """Returns True for samples (n,) that are flipped left to right: one in two."""
    return uniform(seed, epoch, index, _FLIP) < 0.5


def _random_corners(sizes: NDArray[np.int64], shape: NDArray[np.int64], key: tuple[Any, ...]) -> NDArray[np.int64]:
    """Returns top left corners (n, 2) of windows of `shape` (n, 2), uniform over the photograph."""
    position = np.stack([uniform(*key, _TOP), uniform(*key, _LEFT)], axis=1)
    return (position * (sizes - shape + 1)).astype(np.int64)


def _random_shapes(sizes: NDArray[np.int64], key: tuple[Any, ...], scale: tuple[float, float]) -> NDArray[np.int64]:
    """Returns heights and widths (n, 2): the first of ten candidates that fits, or the largest of an allowed aspect."""
    seed, epoch, index = key
    attempt = np.arange(_ATTEMPTS)
    key = (seed, epoch[:, None], index[:, None])
    area = sizes.prod(axis=1)[:, None] * (scale[0] + (scale[1] - scale[0]) * uniform(*key, _AREA, attempt))
    low, high = np.log(_RATIO)
    aspect = np.exp(low + (high - low) * uniform(*key, _ASPECT, attempt))
    shapes = np.stack([np.sqrt(area / aspect), np.sqrt(area * aspect)], axis=2).round().astype(np.int64)
    fits = np.all((shapes > 0) & (shapes <= sizes[:, None]), axis=2)

    height, width = sizes[:, 0], sizes[:, 1]
    clipped = (width / height).clip(*_RATIO)
    fallback = np.stack([np.minimum(height, width / clipped), np.minimum(width, height * clipped)], axis=1)
    chosen = shapes[np.arange(len(sizes)), fits.argmax(axis=1)]
    return np.where(fits.any(axis=1)[:, None], chosen, fallback.round().astype(np.int64).clip(1))
