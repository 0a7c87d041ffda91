"""The squared error of ab, the loss of the original project."""

# Shapes: B samples, S pixels, h w cells of the network's output grid. ab in Lab units.

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from .base import Batch, ColorLoss, LossOutput, Prediction

Resolution = Literal["output", "input"]


def l2_loss(predicted: Tensor, true: Tensor) -> Tensor:
    """Mean over batch, pixels and both channels of the squared error of ab (B, 2, H, W), in squared Lab units.

    Its root is the `rmse_ab` of evaluations. Example:

        >>> import torch
        >>> l2_loss(torch.zeros(1, 2, 4, 4), torch.full((1, 2, 4, 4), 3.0))
        tensor(9.)
    """
    return F.mse_loss(predicted.float(), true)


class L2(ColorLoss):
    """Squared error of ab.

    Args:
        resolution: Where the error is taken: 'output', the network's grid, to which the truth is averaged, or 'input',
            the photograph's pixels, to which the prediction is upsampled bicubically, as in the original project.
    """

    def __init__(self, resolution: Resolution = "output") -> None:
        super().__init__()
        if resolution not in get_args(Resolution):
            raise ValueError(f"loss.resolution={resolution!r} is unknown; known are {', '.join(get_args(Resolution))}")
        self.resolution = resolution

    def forward(self, prediction: Prediction, batch: Batch) -> LossOutput:
        if self.resolution == "input":
            size = (batch.ab.shape[2], batch.ab.shape[3])
            return LossOutput(total=l2_loss(prediction.ab(size, mode="bicubic"), batch.ab))
        # The mean of each cell's pixels, not one pixel of it as in Zhang et al.: the target has no aliasing.
        return LossOutput(total=l2_loss(prediction.output, F.avg_pool2d(batch.ab, prediction.stride, ceil_mode=True)))
