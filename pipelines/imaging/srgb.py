"""The constants of sRGB (IEC 61966-2-1) and CIE Lab (D65, 2 degree observer), with scikit-image's values."""

from functools import cache

import numpy as np
from numpy.typing import NDArray


@cache
def linear_light(levels: int) -> NDArray[np.float64]:
    """Returns linear light in [0, 1] (levels,) of each sRGB sample value: 256 levels for 8 bit, 65536 for 16 bit."""
    values = np.arange(levels) / (levels - 1)
    return np.where(values > 0.04045, ((values + 0.055) / 1.055) ** 2.4, values / 12.92)


LINEAR = linear_light(256)
# Linear rgb to XYZ, each row divided by the white point's value.
TO_XYZ = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
) / np.array([[0.95047], [1.0], [1.08883]])
# CIE's f(t) is the cube root of t above EDGE, and SLOPE * t + INTERCEPT below.
EDGE, SLOPE, INTERCEPT = 216 / 24389, 24389 / 27 / 116, 16 / 116
