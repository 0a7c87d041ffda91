"""The output of a colorizer."""

# Shapes: B samples, H W pixels of the input, h w cells of the network's output grid.

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses.base import Head
from ..losses.constant import constant
from ..losses.quantization import annealed_mean

Upsampling = Literal["bilinear", "bicubic"]


@dataclass(frozen=True, kw_only=True)
class ColorPrediction:
    """A network's output on its own grid, one cell per `stride` x `stride` pixels.

    `output` is float32: ab (B, 2, h, w) in Lab units, which may lie outside the gamut; or the logits (B, 313, h, w) of
    `bins`, whose centres (313, 2) are in Lab units. The grid begins at the top left pixel. Where the input's sides are
    not multiples of the stride, the last cells extend over the edge.
    """

    output: Tensor
    input_size: tuple[int, int]
    stride: int = 4
    bins: Tensor | None = None
    temperature: float = 0.38
    upsampling: Upsampling = "bilinear"

    def __getitem__(self, part: slice) -> "ColorPrediction":
        return replace(self, output=self.output[part])

    @property
    def head(self) -> Head:
        """The kind of `output`: "ab", colours, or "bins", logits."""
        return "ab" if self.bins is None else "bins"

    @property
    def grid_ab(self) -> Tensor:
        """ab (B, 2, h, w) of the grid's cells in Lab units; for logits, the annealed mean at `temperature`."""
        return self.output if self.bins is None else annealed_mean(self.output, self.temperature, self.bins)

    def ab(self, size: tuple[int, int] | None = None) -> Tensor:
        """Returns ab (B, 2, *size) in Lab units; `size` is height and width in pixels, by default the input's."""
        ab, target, mode = self.grid_ab, size or self.input_size, self.upsampling
        # The image covers input_size of the grid's h * stride pixels, and the factors map pixels to pixels.
        factors = [self.stride * out / side for out, side in zip(target, self.input_size, strict=True)]
        if not ab.requires_grad:
            return _interpolate(ab, target, factors, mode)
        # The same by matrix products: the gradient of interpolate has 16 atomic additions per pixel, in no fixed order.
        # Compiled code makes the matrices in every step, since it may have symbolic sizes, which no cache knows.
        matrix = _matrix if torch.compiler.is_compiling() else _cached_matrix
        rows = matrix(ab.shape[2], target[0], factors[0], mode, ab.device, ab.dtype)
        columns = matrix(ab.shape[3], target[1], factors[1], mode, ab.device, ab.dtype)
        with torch.autocast(ab.device.type, enabled=False):
            return rows @ ab @ columns.T


def _interpolate(ab: Tensor, target: tuple[int, int], factors: Sequence[float], mode: Upsampling) -> Tensor:
    """Returns ab (B, C, h, w) at the target's height and width, where a cell is as many pixels as the factors say."""
    if all(factor * side == out for factor, side, out in zip(factors, ab.shape[2:], target, strict=True)):
        return F.interpolate(ab, size=target, mode=mode, align_corners=False)
    # One more cell, since interpolate rounds sizes down and could return a row too few.
    padded = F.pad(ab, (0, 1, 0, 1), mode="replicate")
    upsampled = F.interpolate(padded, scale_factor=list(factors), mode=mode, align_corners=False)
    return upsampled[..., : target[0], : target[1]]


def _matrix(
    side: int, target: int, factor: float, mode: Upsampling, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Returns the weights (target, side) with which the cells of one axis make up its pixels."""
    cells = torch.eye(side, dtype=torch.float64, device=device)[None, None]  # each column interpolated: its weights
    return _interpolate(cells, (target, side), (factor, 1.0), mode)[0, 0].to(dtype)


_cached_matrix = constant(_matrix)
