"""The 313 ab bins of Zhang et al. (ECCV 2016), derived from the sRGB gamut.

The published array `pts_in_hull.npy` is reproduced exactly, order included: it holds the multiples of 10 whose
Chebyshev distance to the convex hull of the gamut's ab projection is below 10.
"""

# Shapes: Q = 313 bins, k neighbours, n colours. ab in Lab units.

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import ConvexHull
from skimage.color import rgb2lab
from torch import Tensor

GRID = 10  # Lab units between neighbouring centres


@cache
def ab_bins() -> Tensor:
    """The bins' centres, float32 (313, 2) on the CPU, sorted by (a, b).

    The margin is wide: the farthest centre kept lies 9.73 from the hull, the nearest rejected one 10.07.
    """
    # The points within a Chebyshev distance of a convex set are its Minkowski sum with a square, convex again: the hull
    # of the gamut's points moved to the four corners of that square.
    square = GRID * np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
    hull = ConvexHull((_gamut_ab()[:, None] + square).reshape(-1, 2))
    axis = np.arange(-120, 121, GRID)
    candidates = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    inside = (candidates @ hull.equations[:, :2].T + hull.equations[:, 2] < 0).all(axis=1)
    return torch.from_numpy(candidates[inside].astype(np.float32))


def soft_encode(ab: Tensor, k: int = 5, sigma: float = 5.0) -> tuple[Tensor, Tensor]:
    """Each colour as a mixture of its `k` nearest bins: indices int64 and weights float32, both (B, k, H, W).

    `ab` is (B, 2, H, W). The weights are a Gaussian of width `sigma` over the distance and sum to 1 over the bins
    (section 2.2 of Zhang et al.: k = 5, sigma = 5).
    """
    colours = ab.permute(0, 2, 3, 1).float()
    bins = ab_bins().to(ab.device)
    distances = torch.cdist(colours, bins, compute_mode="donot_use_mm_for_euclid_dist")
    distance, index = distances.topk(k, dim=-1, largest=False)
    weight = torch.softmax(-distance.square() / (2 * sigma**2), dim=-1)
    return index.permute(0, 3, 1, 2), weight.permute(0, 3, 1, 2)


def ab_histogram(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The share (313,) of each bin, softly encoded, in colours counted in a table (256, 256) by a + 128 and b + 128."""
    cells = np.argwhere(counts)
    ab = torch.from_numpy(cells - 128.0).T.reshape(1, 2, -1, 1)
    index, weight = soft_encode(ab)
    mass = weight[0, ..., 0].double().numpy() * counts[counts > 0]
    return np.bincount(index.flatten().numpy(), mass.flatten(), minlength=len(ab_bins())) / counts.sum()


def _gamut_ab() -> NDArray[np.float64]:
    """a and b (n, 2) of a lattice over the whole sRGB cube; 5 levels already give the same bins as all 256."""
    level = np.linspace(0, 1, 17)
    rgb = np.stack(np.meshgrid(level, level, level), axis=-1).reshape(-1, 1, 3)
    ab: NDArray[np.float64] = rgb2lab(rgb)[:, 0, 1:]
    return ab
