"""sRGB to lightness and back on the CPU, by machine code that Numba makes: one pass, where tensors take fifty."""

# Shapes: H W pixels. L in [0, 100], ab about -110..110; samples are sRGB in 8 or 16 bit.

from functools import cache
from typing import Any

import numba
import numpy as np

from ...pipelines.imaging import srgb

_EDGE, _SLOPE, _INTERCEPT = np.float32(srgb.EDGE), np.float32(srgb.SLOPE), np.float32(srgb.INTERCEPT)
_F_EDGE = np.float32(6 / 29)  # CIE's f at the edge
_Y = srgb.TO_XYZ[1].astype(np.float32)
_TO_RGB = np.linalg.inv(srgb.TO_XYZ).astype(np.float32)
# Linear light a thousandth of sRGB's range beyond it, within which a colour passes for one that sRGB has.
_LEAST, _MOST = np.float32(-1e-3 / 12.92), np.float32(((1.001 + 0.055) / 1.055) ** 2.4)

_FAST = {"contract", "nnan", "ninf", "nsz"}
_PLANE, _PLANES, _TABLE = numba.float32[:, ::1], numba.float32[:, :, ::1], numba.float32[::1]


def _compiled(signatures: list[Any]) -> Any:
    options: dict[str, Any] = {"nogil": True, "fastmath": _FAST, "error_model": "numpy"}

    def decorate(function: Any) -> Any:
        try:
            return numba.njit(signatures, cache=True, **options)(function)
        except RuntimeError:  # no folder can be written to: every process compiles for itself
            return numba.njit(signatures, **options)(function)

    return decorate


@cache
def linear_light(dtype: np.dtype[Any]) -> Any:
    """Linear light, float32 in [0, 1], of every 8-bit or 16-bit value."""
    values = np.arange(np.iinfo(dtype).max + 1) / np.iinfo(dtype).max
    return np.where(values > 0.04045, ((values + 0.055) / 1.055) ** 2.4, values / 12.92).astype(np.float32)


def _samples(kind: Any) -> Any:
    return numba.types.Array(kind, 3, "C", readonly=True)


@_compiled([numba.void(_samples(kind), _TABLE, _PLANE) for kind in (numba.uint8, numba.uint16)])
def write_lightness(samples, linear, L):  # type: ignore[no-untyped-def]  # Numba's types stand above
    """Writes L (H, W) of samples (H, W, 3), whose linear light `linear` tells."""
    for row in range(L.shape[0]):
        for column in range(L.shape[1]):
            y = (
                _Y[0] * linear[samples[row, column, 0]]
                + _Y[1] * linear[samples[row, column, 1]]
                + _Y[2] * linear[samples[row, column, 2]]
            )
            f = np.cbrt(y) if y > _EDGE else _SLOPE * y + _INTERCEPT
            L[row, column] = np.float32(116) * f - np.float32(16)


@numba.njit(nogil=True, fastmath=_FAST)
def _light(f):  # type: ignore[no-untyped-def]
    """The inverse of CIE's f."""
    return f * f * f if f > _F_EDGE else (f - _INTERCEPT) / _SLOPE


@numba.njit(nogil=True, fastmath=_FAST)
def _rgb(fy, a, b):  # type: ignore[no-untyped-def]
    """Linear light of a colour, and whether sRGB has it."""
    x, y, z = _light(fy + a / np.float32(500)), _light(fy), _light(max(fy - b / np.float32(200), np.float32(0)))
    red = _TO_RGB[0, 0] * x + _TO_RGB[0, 1] * y + _TO_RGB[0, 2] * z
    green = _TO_RGB[1, 0] * x + _TO_RGB[1, 1] * y + _TO_RGB[1, 2] * z
    blue = _TO_RGB[2, 0] * x + _TO_RGB[2, 1] * y + _TO_RGB[2, 2] * z
    return red, green, blue, min(red, green, blue) >= _LEAST and max(red, green, blue) <= _MOST


@numba.njit(nogil=True, fastmath=_FAST)
def _code(light, top):  # type: ignore[no-untyped-def]
    """The sample, of a range up to `top`, that shows linear light best."""
    light = min(max(light, np.float32(0)), np.float32(1))
    if light <= np.float32(0.0031308):
        return np.float32(12.92) * light * top + np.float32(0.5)
    return (np.float32(1.055) * light ** np.float32(1 / 2.4) - np.float32(0.055)) * top + np.float32(0.5)


@_compiled([numba.int64(_PLANE, _PLANES, kind[:, :, ::1], numba.int64) for kind in (numba.uint8, numba.uint16)])
def write_joined(L, ab, samples, steps):  # type: ignore[no-untyped-def]
    """Writes samples (H, W, 3) of L (H, W) and ab (2, H, W), and returns how many colours sRGB has not.

    Those lose chroma, at their lightness and hue, until it has, to 1 / 2^steps of their chroma: as `lab_to_gamut` does.
    """
    top = np.float32(255) if samples.itemsize == 1 else np.float32(65535)
    outside = 0
    for row in range(L.shape[0]):
        for column in range(L.shape[1]):
            fy = (L[row, column] + np.float32(16)) / np.float32(116)
            a, b = ab[0, row, column], ab[1, row, column]
            red, green, blue, exists = _rgb(fy, a, b)
            if not exists:
                outside += 1
                low, high = np.float32(0), np.float32(1)
                for _ in range(steps):
                    middle = (low + high) / np.float32(2)
                    if _rgb(fy, middle * a, middle * b)[3]:
                        low = middle
                    else:
                        high = middle
                red, green, blue, _ = _rgb(fy, low * a, low * b)
            samples[row, column, 0] = _code(red, top)
            samples[row, column, 1] = _code(green, top)
            samples[row, column, 2] = _code(blue, top)
    return outside
