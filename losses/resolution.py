"""Where regression losses compare colours: on the network's grid, or on the photograph's pixels."""

# Shapes: B samples, S pixels, h w cells of the network's output grid. ab in Lab units.

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from .base import Batch, Prediction, at_least_float32

Resolution = Literal["output", "input"]


def check_resolution(resolution: str) -> None:
    """Raises ValueError for a resolution that is unknown."""
    if resolution not in get_args(Resolution):
        raise ValueError(f"loss.resolution={resolution!r} is unknown; known are {', '.join(get_args(Resolution))}")


def compared(prediction: Prediction, batch: Batch, resolution: Resolution) -> tuple[Tensor, Tensor]:
    """Predicted and true ab at one resolution: both (B, 2, h, w) for "output", (B, 2, S, S) for "input"."""
    if resolution == "input":
        return at_least_float32(prediction.ab((batch.ab.shape[2], batch.ab.shape[3]))), batch.ab
    return at_least_float32(prediction.grid_ab), cell_means(batch.ab, prediction.stride)


def cell_means(ab: Tensor, stride: int) -> Tensor:
    """The mean of each cell's pixels, (B, 2, h, w), of ab (B, 2, S, S).

    Zhang et al. take one pixel of each cell; of its mean, the target has no aliasing.
    """
    return F.avg_pool2d(ab, stride, ceil_mode=True)
