"""Counts the ab colours of an image, for a shard set's statistics and to find grey photographs."""

# Shapes: H W pixels, n sampled pixels. ab in Lab units, about -110..110.

import numpy as np
from numpy.typing import NDArray

from .decode import Pixels
from .srgb import EDGE, INTERCEPT, LINEAR, SLOPE, TO_XYZ

GREY_LIMIT = 5.0  # grey if no |a| or |b| is above it, as in the released code of Zhang et al. (NonGrayMaskLayer)
AB_STRIDE = 4  # every 4th pixel each way is counted, the grid of the network's output
NUM_AB_CODES = 256 * 256


def sample_ab(pixels: Pixels) -> NDArray[np.float64]:
    """Returns a and b (2, n) of every 4th pixel (each way) of sRGB (H, W, 3): CIE Lab, D65, 2 degree observer."""
    rgb = np.ascontiguousarray(pixels[::AB_STRIDE, ::AB_STRIDE].reshape(-1, 3).T)
    t = TO_XYZ @ LINEAR.take(rgb)
    root = np.exp(np.log(np.maximum(t, EDGE)) / 3)  # half the time of np.cbrt
    x, y, z = np.where(t > EDGE, root, SLOPE * t + INTERCEPT)  # CIE's f(t)
    return np.stack([500 * (x - y), 200 * (y - z)])


def is_grey(ab: NDArray[np.float64]) -> bool:
    """True if no sampled |a| or |b| is above GREY_LIMIT."""
    return bool(np.abs(ab).max() <= GREY_LIMIT)


def count_ab(ab: NDArray[np.float64]) -> tuple[NDArray[np.uint16], NDArray[np.uint32]]:
    """Counts a and b (2, n), rounded to whole Lab units: the codes that occur, sorted, and how often each does.

    A code is (a + 128) * 256 + (b + 128).
    """
    a, b = (ab + 128.5).astype(np.uint16)  # rounds; no sRGB colour lies beyond -128 or 127
    codes = np.sort(a * np.uint16(256) + b, kind="stable")  # a radix sort: a third of np.unique's time
    starts = np.flatnonzero(np.diff(codes, prepend=~codes[:1]))
    return codes[starts], np.diff(np.append(starts, len(codes))).astype(np.uint32)
