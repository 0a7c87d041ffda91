"""The 313 ab bins of Zhang et al. (ECCV 2016), derived from the sRGB gamut; colours to mixtures of bins and back.

The published array `pts_in_hull.npy` is reproduced exactly, order included: it holds the multiples of 10 whose
Chebyshev distance to the convex hull of the gamut's ab projection is below 10.
"""

# Shapes: B samples, H W positions, Q = 313 bins, k neighbours, n colours, m candidates. ab in Lab units.

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .base import at_least_float32
from .constant import constant

GRID = 10  # Lab units between neighbouring centres
_LIMIT = 130.0  # the largest |a| and |b|: those of 8-bit Lab are smaller
_CPU = torch.device("cpu")
_CELL = 2.5  # side of the squares of the candidate table: smaller squares have fewer candidates and a larger table


def ab_bins(device: torch.device = _CPU) -> Tensor:
    """Returns the bins' centres, float32 (313, 2), sorted by (a, b). Callers share one tensor and must not change it.

    The margin is wide: the farthest centre kept lies 9.73 from the hull, the nearest rejected one 10.07.
    """
    return _bins(device)  # called with an argument, since the cache does not see defaults


@constant
def _bins(device: torch.device) -> Tensor:
    from scipy.spatial import ConvexHull

    if device != _CPU:
        return _bins(_CPU).to(device)
    # The points within a Chebyshev distance of a convex set are its Minkowski sum with a square, which is convex, too:
    # the hull of the gamut's points moved to the four corners of that square.
    square = GRID * np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
    hull = ConvexHull((_gamut_ab()[:, None] + square).reshape(-1, 2))
    axis = np.arange(-120, 121, GRID)
    candidates = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    inside = (candidates @ hull.equations[:, :2].T + hull.equations[:, 2] < 0).all(axis=1)
    return torch.from_numpy(candidates[inside].astype(np.float32))


def soft_encode(ab: Tensor, k: int = 5, sigma: float = 5.0) -> tuple[Tensor, Tensor]:
    """Returns each colour as a mixture of its `k` nearest bins: indices int64 and weights float32, both (B, k, H, W).

    `ab` is (B, 2, H, W), from -130 to 130. The nearest bin comes first; the weights are a Gaussian of width `sigma`
    over the distance and sum to 1 over the bins. Section 2.2 of Zhang et al. has k = 5, their released code k = 10,
    both sigma = 5.

    Raises ValueError when `k` is not in 1..313.
    """
    candidates, bins = _candidates(k, ab.device)
    colours = ab.permute(0, 2, 3, 1).float()
    cell = ((colours + _LIMIT) / _CELL).long().clamp(0, len(candidates) - 1)
    near = candidates[cell[..., 0], cell[..., 1]]
    squares = (bins[near] - colours[..., None, :]).square().sum(dim=-1)
    smallest, place = squares.topk(k, dim=-1, largest=False)
    index = near.gather(-1, place)
    weight = torch.softmax(-smallest / (2 * sigma**2), dim=-1)
    return index.permute(0, 3, 1, 2), weight.permute(0, 3, 1, 2)


def nearest_bin(ab: Tensor) -> Tensor:
    """Returns the index of the bin nearest to each colour, int64 (B, H, W), of ab (B, 2, H, W).

    Exact for colours in sRGB, whose nearest multiple of 10 is always a bin; others get the bin nearest to that
    multiple.
    """
    row, column = ((ab.float() + _LIMIT) / GRID).round().long().clamp(0, int(2 * _LIMIT) // GRID).unbind(dim=1)
    return _bins_of_grid(ab.device)[row, column]


def annealed_mean(logits: Tensor, temperature: float = 0.38, bins: Tensor | None = None) -> Tensor:
    """Returns the colour, ab (B, 2, H, W), of a distribution over the bins, given as logits (B, 313, H, W).

    It is the mean of softmax(logits / temperature), eq. 5 of Zhang et al.: 1 gives the distribution's mean, 0 its mode,
    and 0.38, the paper's choice, lies between. `bins` (313, 2) are centres in place of `ab_bins()`.
    """
    bins = ab_bins(logits.device) if bins is None else bins
    if temperature == 0:
        return bins[logits.argmax(dim=1)].permute(0, 3, 1, 2)
    with torch.autocast(logits.device.type, enabled=False):  # bfloat16 would round ab to steps of up to half a unit
        logits = at_least_float32(logits)
        share = torch.softmax(logits / temperature, dim=1)
        return F.conv2d(share, bins.to(share.dtype).T[..., None, None])


def kernel_logits(ab: Tensor, sigma: float = 5.0) -> Tensor:
    """Returns logits (B, 313, H, W) for colours ab (B, 2, H, W); their softmax is a Gaussian over the distance.

    They are -|ab - c|^2 / (2 sigma^2) for each centre c, without the term -|ab|^2 / (2 sigma^2), which is common to all
    bins and cancels in the softmax. So they are linear in ab.
    """
    with torch.autocast(ab.device.type, enabled=False):
        ab = at_least_float32(ab)
        bins = ab_bins(ab.device).to(ab.dtype)
        return F.conv2d(ab, bins[..., None, None] / sigma**2, -bins.square().sum(dim=1) / (2 * sigma**2))


def ab_histogram(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns the share (313,) of each bin, softly encoded, of colours counted (256, 256) by a + 128 and b + 128."""
    cells = np.argwhere(counts)
    ab = torch.from_numpy(cells - 128.0).T.reshape(1, 2, -1, 1)
    index, weight = soft_encode(ab)
    mass = weight[0, ..., 0].double().numpy() * counts[counts > 0]
    return np.bincount(index.flatten().numpy(), mass.flatten(), minlength=len(ab_bins())) / counts.sum()


@constant
def _bins_of_grid(device: torch.device) -> Tensor:
    """Returns the bin nearest to each multiple of 10 from -130 to 130, int64 (27, 27) by a and b."""
    axis = torch.arange(-_LIMIT, _LIMIT + 1, GRID)
    grid = torch.cartesian_prod(axis, axis)
    return torch.cdist(grid, ab_bins()).argmin(dim=1).reshape(len(axis), len(axis)).to(device)


@constant
def _candidates(k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns the bins that can be among the `k` nearest of any colour in each square, and the centres.

    The bins are int64 (cells, cells, m). Squares with fewer candidates are filled up with a 314th bin, which is farther
    than all others.
    """
    bins = ab_bins().double()
    if not 1 <= k <= len(bins):
        raise ValueError(f"k={k} is not in 1..{len(bins)}, the number of bins")
    middle = torch.arange(-_LIMIT + _CELL / 2, _LIMIT, _CELL, dtype=torch.float64)
    squares = torch.cartesian_prod(middle, middle)
    offset = (squares[:, None] - bins).abs()
    nearest = (offset - _CELL / 2).clamp(min=0).square().sum(dim=-1)
    farthest = (offset + _CELL / 2).square().sum(dim=-1)
    possible = nearest <= farthest.kthvalue(k, dim=1).values[:, None]
    order = nearest.masked_fill(~possible, torch.inf).argsort(dim=1)[:, : int(possible.sum(dim=1).max())]
    candidates = torch.where(possible.gather(1, order), order, len(bins))
    centres = torch.cat([bins, torch.full((1, 2), 1e4, dtype=torch.float64)]).float()
    return candidates.reshape(len(middle), len(middle), -1).to(device), centres.to(device)


def _gamut_ab() -> NDArray[np.float64]:
    """Returns a and b (n, 2) of a lattice over the sRGB cube; 5 levels already give the same bins as all 256."""
    from skimage.color import rgb2lab

    level = np.linspace(0, 1, 17)
    rgb = np.stack(np.meshgrid(level, level, level), axis=-1).reshape(-1, 1, 3)
    ab: NDArray[np.float64] = rgb2lab(rgb)[:, 0, 1:]
    return ab
