"""Bytes to Lab on the CPU, by machine code that Numba makes: as exact as Kornia, in a sixteenth of its time.

Both kernels hold no lock of Python's, so that threads run them side by side, and are kept on disk once compiled.
"""

# Shapes: H W pixels of the stored picture, S of the square that is cut from it. L in [0, 100], ab about -110..110.

from typing import Any

import numba
import numpy as np

from . import srgb

LINEAR, TO_XYZ = srgb.LINEAR.astype(np.float32), srgb.TO_XYZ.astype(np.float32)
_EDGE, _SLOPE, _INTERCEPT = np.float32(srgb.EDGE), np.float32(srgb.SLOPE), np.float32(srgb.INTERCEPT)
_THIRD = np.float32(1 / 3)
_ONE, _TWO_NINTHS = np.float32(1), np.float32(2 / 9)
_MAGIC = np.int32(0x54A2FA8C)  # less a third of a float32's bits: its inverse cube root, within 4 %

_FAST = {"contract", "nnan", "ninf", "nsz"}  # but no reordering: black is to be exactly 0

_pixels = numba.types.Array(numba.uint8, 3, "C", readonly=True)
_planes, _plane = numba.float32[:, :, ::1], numba.float32[:, ::1]
_signature = numba.void(_pixels, numba.int64, numba.int64, numba.boolean, _plane, _planes)


def _compiled(function: Any) -> Any:
    options: dict[str, Any] = {"nogil": True, "fastmath": _FAST, "error_model": "numpy"}
    try:
        return numba.njit(_signature, cache=True, **options)(function)
    except RuntimeError:  # no folder can be written to: every process compiles for itself
        return numba.njit(_signature, **options)(function)


@numba.njit(nogil=True)
def _affine(values, factor, offset, mirrored, out):  # type: ignore[no-untyped-def]
    """One row of the result."""
    size = len(out)
    if mirrored:
        for x in range(size):
            out[x] = factor * (np.float32(values[np.uint64(size - 1 - x)]) - offset)  # signed: each is checked
    else:
        for x in range(size):
            out[x] = factor * (np.float32(values[x]) - offset)


@_compiled
def rgb_window_to_lab(rgb, top, left, mirrored, L, ab):  # type: ignore[no-untyped-def]  # Numba's types stand above
    """Writes L (S, S) and ab (2, S, S) of the square of sRGB (H, W, 3) at (top, left), mirrored left to right or not.

    Agrees with `skimage.color.rgb2lab` to 1e-3. The square must lie within the picture: nothing is checked.
    """
    size = L.shape[1]
    linear = np.empty((3, size), np.float32)
    t = np.empty(3 * size, np.float32)  # X, Y and Z of one row, each over the white point's
    root, inverse = np.empty(3 * size, np.float32), np.empty(3 * size, np.float32)
    root_bits, inverse_bits = root.view(np.int32), inverse.view(np.int32)
    for line in range(L.shape[0]):
        row = rgb[top + line, left : left + size]
        # Each loop does one kind of thing to a whole row, which is what compilers turn into vector instructions.
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
            root[x] = max(t[x], _EDGE)
        for x in range(3 * size):
            inverse_bits[x] = _MAGIC - np.int32(np.float32(root_bits[x]) * _THIRD)
        for x in range(3 * size):
            value, y = root[x], inverse[x]
            for _ in range(2):  # each triples the digits, without a division
                rest = _ONE - value * (y * y * y)
                y += y * rest * (_THIRD + _TWO_NINTHS * rest)
            root[x] = value * y * y if t[x] > _EDGE else _SLOPE * t[x] + _INTERCEPT
        for x in range(size):
            root[x] -= root[size + x]
            root[2 * size + x] = root[size + x] - root[2 * size + x]
        _affine(root[size : 2 * size], np.float32(116), _INTERCEPT, mirrored, L[line])
        _affine(root[:size], np.float32(500), np.float32(0), mirrored, ab[0, line])
        _affine(root[2 * size :], np.float32(200), np.float32(0), mirrored, ab[1, line])


@_compiled
def codes_window_to_lab(codes, top, left, mirrored, L, ab):  # type: ignore[no-untyped-def]
    """As `rgb_window_to_lab`, of Lab in bytes (3, H, W), as `lab_codes` in color.py makes them."""
    size = L.shape[1]
    for y in range(L.shape[0]):
        _affine(codes[0, top + y, left : left + size], np.float32(100 / 255), np.float32(0), mirrored, L[y])
        _affine(codes[1, top + y, left : left + size], np.float32(1), np.float32(128), mirrored, ab[0, y])
        _affine(codes[2, top + y, left : left + size], np.float32(1), np.float32(128), mirrored, ab[1, y])
