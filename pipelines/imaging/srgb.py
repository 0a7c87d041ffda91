"""The constants of sRGB (IEC 61966-2-1) that lead to CIE Lab under D65, 2 degree observer, as scikit-image has them."""

import numpy as np

_SRGB = np.arange(256) / 255
# Linear light (256,) of each 8-bit value, and the matrix to XYZ, each row over the white point's.
LINEAR = np.where(_SRGB > 0.04045, ((_SRGB + 0.055) / 1.055) ** 2.4, _SRGB / 12.92)
TO_XYZ = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
) / np.array([[0.95047], [1.0], [1.08883]])
# CIE's f is a cube root, and below the edge a straight line.
EDGE, SLOPE, INTERCEPT = 216 / 24389, 24389 / 27 / 116, 16 / 116
