"""Numba kernels on the CPU: crops of decoded images to Lab, as exact as Kornia in a sixteenth of its time.

Kernels release the GIL, so that threads run them in parallel. Numba caches the compiled code on disk.
"""

# Shapes: H W pixels of the stored image, S of the square crop. L in [0, 100], ab about -110..110.

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from . import srgb

LINEAR, TO_XYZ = srgb.LINEAR.astype(np.float32), srgb.TO_XYZ.astype(np.float32)
EDGE, SLOPE, INTERCEPT = np.float32(srgb.EDGE), np.float32(srgb.SLOPE), np.float32(srgb.INTERCEPT)
FASTMATH = {"contract", "nnan", "ninf", "nsz"}  # without reassociation, so that black is exactly 0
PLANE, PLANES = numba.float32[:, ::1], numba.float32[:, :, ::1]

_THIRD = np.float32(1 / 3)
_ONE, _TWO_NINTHS = np.float32(1), np.float32(2 / 9)
_MAGIC = np.int32(0x54A2FA8C)  # minus a third of a float32's bits: its inverse cube root within 4 %


def image_type(dtype: Any) -> Any:
    """Returns Numba's type of a contiguous array with three dimensions, which may be read-only."""
    return numba.types.Array(dtype, 3, "C", readonly=True)


def compiled(signatures: Any) -> Callable[[Any], Any]:
    """Returns a decorator that compiles a function for one or several signatures."""
    options: dict[str, Any] = {"nogil": True, "fastmath": FASTMATH, "error_model": "numpy"}

    def decorate(function: Any) -> Any:
        try:
            return numba.njit(signatures, cache=True, **options)(function)
        except RuntimeError:  # no folder is writable: each process compiles for itself
            return numba.njit(signatures, **options)(function)

    return decorate


_crop_signature = numba.void(image_type(numba.uint8), numba.int64, numba.int64, numba.boolean, PLANE, PLANES)


@numba.njit(nogil=True)
def _affine(values, factor, offset, flip, out):  # type: ignore[no-untyped-def]
    """Writes factor * (values - offset) to one row of the result."""
    size = len(out)
    if flip:
        for x in range(size):
            out[x] = factor * (np.float32(values[np.uint64(size - 1 - x)]) - offset)  # a signed index is slower
    else:
        for x in range(size):
            out[x] = factor * (np.float32(values[x]) - offset)


@compiled(_crop_signature)
def rgb_crop_to_lab(rgb, top, left, flip, L, ab):  # type: ignore[no-untyped-def]  # the signature has the types
    """Writes L (S, S) and ab (2, S, S) of the square of sRGB (H, W, 3) at (top, left), flipped left to right or not.

    Agrees with `skimage.color.rgb2lab` to 1e-3. The square must lie inside the image: bounds are not checked.
    """
    size = L.shape[1]
    linear = np.empty((3, size), np.float32)
    t = np.empty(3 * size, np.float32)  # X, Y and Z of one row, each divided by the white point's
    root, inverse = np.empty(3 * size, np.float32), np.empty(3 * size, np.float32)
    root_bits, inverse_bits = root.view(np.int32), inverse.view(np.int32)
    for line in range(L.shape[0]):
        row = rgb[top + line, left : left + size]
        # Each loop does one operation on a whole row, so that the compiler emits vector instructions.
        for x in range(size):
            linear[0, x] = LINEAR[row[x, 0]]
            linear[1, x] = LINEAR[row[x, 1]]
            linear[2, x] = LINEAR[row[x, 2]]
        for i in range(3):
            for x in range(size):
                t[i * size + x] = (
                    TO_XYZ[i, 0] * linear[0, x] + TO_XYZ[i, 1] * linear[1, x] + TO_XYZ[i, 2] * linear[2, x]
                )
        for x in range(3 * size):
            root[x] = max(t[x], EDGE)
        for x in range(3 * size):
            inverse_bits[x] = _MAGIC - np.int32(np.float32(root_bits[x]) * _THIRD)
        for x in range(3 * size):
            value, y = root[x], inverse[x]
            for _ in range(2):  # each step triples the number of correct digits, without a division
                rest = _ONE - value * (y * y * y)
                y += y * rest * (_THIRD + _TWO_NINTHS * rest)
            root[x] = value * y * y if t[x] > EDGE else SLOPE * t[x] + INTERCEPT
        for x in range(size):
            root[x] -= root[size + x]
            root[2 * size + x] = root[size + x] - root[2 * size + x]
        _affine(root[size : 2 * size], np.float32(116), INTERCEPT, flip, L[line])
        _affine(root[:size], np.float32(500), np.float32(0), flip, ab[0, line])
        _affine(root[2 * size :], np.float32(200), np.float32(0), flip, ab[1, line])


@compiled(_crop_signature)
def lab_uint8_crop_to_lab(lab, top, left, flip, L, ab):  # type: ignore[no-untyped-def]
    """Does the same as `rgb_crop_to_lab` for Lab in bytes (3, H, W), as `rgb_to_lab_uint8` in color.py returns it."""
    size = L.shape[1]
    for y in range(L.shape[0]):
        _affine(lab[0, top + y, left : left + size], np.float32(100 / 255), np.float32(0), flip, L[y])
        _affine(lab[1, top + y, left : left + size], np.float32(1), np.float32(128), flip, ab[0, y])
        _affine(lab[2, top + y, left : left + size], np.float32(1), np.float32(128), flip, ab[1, y])
