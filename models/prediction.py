"""What a colorizer says about a picture's colours."""

# Shapes: B samples, H W pixels of the input, h w cells of the network's output grid.

from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ColorPrediction:
    """A network's output on its own grid, one cell per `stride` x `stride` pixels.

    `output` is float32 (B, 2, h, w), ab in Lab units, not yet limited to colours that exist. The grid begins at the top
    left pixel; where the input's sides are no multiples of the stride, its last cells reach over the edge.
    """

    output: Tensor
    input_size: tuple[int, int]
    stride: int = 4

    def __getitem__(self, part: slice) -> "ColorPrediction":
        return replace(self, output=self.output[part])

    def ab(self, size: tuple[int, int] | None = None, mode: str = "bilinear") -> Tensor:
        """ab (B, 2, *size) in Lab units; `size` is height and width in pixels, by default those of the input."""
        target = size or self.input_size
        # The picture covers only input_size of the grid's h * stride pixels: the factors map pixels onto pixels.
        factors = [self.stride * out / inside for out, inside in zip(target, self.input_size, strict=True)]
        if all(f * cells == out for f, cells, out in zip(factors, self.output.shape[2:], target, strict=True)):
            return F.interpolate(self.output, size=target, mode=mode, align_corners=False)
        # One more cell, so that the rounding down in interpolate never leaves a row short.
        grown = F.pad(self.output, (0, 1, 0, 1), mode="replicate")
        whole = F.interpolate(grown, scale_factor=factors, mode=mode, align_corners=False)
        return whole[..., : target[0], : target[1]]
