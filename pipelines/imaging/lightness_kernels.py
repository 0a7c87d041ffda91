"""Numba kernels on the CPU for colorizing: sRGB to lightness, and Lab back to sRGB, in one pass over the pixels."""

# Shapes: H W pixels. L in [0, 100], ab about -110..110; samples are sRGB in 8 or 16 bit.

import numba
import numpy as np

from . import srgb
from .kernels import EDGE, FASTMATH, INTERCEPT, PLANE, PLANES, SLOPE, TO_XYZ, compiled, image_type

_EDGE_F = np.float32(6 / 29)  # CIE's f at EDGE
_TO_RGB = np.linalg.inv(srgb.TO_XYZ).astype(np.float32)
# Linear light of -0.001 and 1.001 in sRGB. Colours between the two count as inside the gamut.
_MIN, _MAX = np.float32(-1e-3 / 12.92), np.float32(((1.001 + 0.055) / 1.055) ** 2.4)

_DTYPES = (numba.uint8, numba.uint16)


@compiled([numba.void(image_type(dtype), numba.float32[::1], PLANE) for dtype in _DTYPES])
def write_lightness(samples, linear, L):  # type: ignore[no-untyped-def]  # the signatures have the types
    """Writes L (H, W) of samples (H, W, 3); `linear` is the linear light of each sample value, in float32."""
    for row in range(L.shape[0]):
        for column in range(L.shape[1]):
            y = (
                TO_XYZ[1, 0] * linear[samples[row, column, 0]]
                + TO_XYZ[1, 1] * linear[samples[row, column, 1]]
                + TO_XYZ[1, 2] * linear[samples[row, column, 2]]
            )
            f = np.cbrt(y) if y > EDGE else SLOPE * y + INTERCEPT
            L[row, column] = np.float32(116) * f - np.float32(16)


@numba.njit(nogil=True, fastmath=FASTMATH)
def _inverse_f(f):  # type: ignore[no-untyped-def]
    """Returns t of CIE's f(t)."""
    return f * f * f if f > _EDGE_F else (f - INTERCEPT) / SLOPE


@numba.njit(nogil=True, fastmath=FASTMATH)
def _linear_rgb(fy, a, b):  # type: ignore[no-untyped-def]
    """Returns linear red, green and blue of a colour, and True if it is inside sRGB's gamut."""
    x = _inverse_f(fy + a / np.float32(500))
    y = _inverse_f(fy)
    z = _inverse_f(max(fy - b / np.float32(200), np.float32(0)))
    red = _TO_RGB[0, 0] * x + _TO_RGB[0, 1] * y + _TO_RGB[0, 2] * z
    green = _TO_RGB[1, 0] * x + _TO_RGB[1, 1] * y + _TO_RGB[1, 2] * z
    blue = _TO_RGB[2, 0] * x + _TO_RGB[2, 1] * y + _TO_RGB[2, 2] * z
    return red, green, blue, min(red, green, blue) >= _MIN and max(red, green, blue) <= _MAX


@numba.njit(nogil=True, fastmath=FASTMATH)
def _to_sample(linear, max_value):  # type: ignore[no-untyped-def]
    """Returns linear light as an sRGB sample from 0 to `max_value`, plus one half: the caller cuts it to an integer."""
    linear = min(max(linear, np.float32(0)), np.float32(1))
    if linear <= np.float32(0.0031308):
        return np.float32(12.92) * linear * max_value + np.float32(0.5)
    return (np.float32(1.055) * linear ** np.float32(1 / 2.4) - np.float32(0.055)) * max_value + np.float32(0.5)


@compiled([numba.int64(PLANE, PLANES, dtype[:, :, ::1], numba.int64) for dtype in _DTYPES])
def write_rgb(L, ab, samples, steps):  # type: ignore[no-untyped-def]
    """Writes samples (H, W, 3) of L (H, W) and ab (2, H, W); returns how many colours are outside sRGB's gamut.

    Those lose chroma as in `lab_to_gamut`: lightness and hue stay, and bisection of `steps` steps finds the chroma.
    """
    max_value = np.float32(255) if samples.itemsize == 1 else np.float32(65535)
    num_outside = 0
    for row in range(L.shape[0]):
        for column in range(L.shape[1]):
            fy = (L[row, column] + np.float32(16)) / np.float32(116)
            a, b = ab[0, row, column], ab[1, row, column]
            red, green, blue, is_inside = _linear_rgb(fy, a, b)
            if not is_inside:
                num_outside += 1
                low, high = np.float32(0), np.float32(1)
                for _ in range(steps):
                    middle = (low + high) / np.float32(2)
                    if _linear_rgb(fy, middle * a, middle * b)[3]:
                        low = middle
                    else:
                        high = middle
                red, green, blue, _ = _linear_rgb(fy, low * a, low * b)
            samples[row, column, 0] = _to_sample(red, max_value)
            samples[row, column, 1] = _to_sample(green, max_value)
            samples[row, column, 2] = _to_sample(blue, max_value)
    return num_outside
