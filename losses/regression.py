"""Regression losses of ab: the squared error of the original project, and the Huber loss of the SIGGRAPH 2017 model."""

# Shapes: B samples, S pixels, h w cells of the network's output grid, H W positions. ab in Lab units.

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Batch, ElementwiseLoss, Prediction, UnreducedLoss, at_least_float32, check_choice

Resolution = Literal["output", "input"]


def l2_loss(predicted: Tensor, true: Tensor) -> UnreducedLoss:
    """Returns the squared error of ab (B, 2, H, W), in squared Lab units; it reduces to its mean.

    The root of that mean is the `rmse_ab` of evaluations. Example:

        >>> import torch
        >>> l2_loss(torch.zeros(1, 2, 4, 4), torch.full((1, 2, 4, 4), 3.0)).total
        tensor(9.)
    """
    difference = predicted - true
    return UnreducedLoss(error=difference.square(), distance=difference.abs(), count=difference.numel())


def smooth_l1_loss(predicted: Tensor, true: Tensor, beta: float = 1.0) -> UnreducedLoss:
    """Returns |d| - beta / 2 of the difference d of ab (B, 2, H, W), or d^2 / (2 beta) where |d| < beta.

    It reduces to its mean. Girshick, "Fast R-CNN" (ICCV 2015), eq. 3, for beta = 1.
    """
    distance = (predicted - true).abs()
    error = torch.where(distance < beta, distance.square() / (2 * beta), distance - beta / 2)
    return UnreducedLoss(error=error, distance=distance, count=distance.numel())


class L2(ElementwiseLoss):
    """Squared error of ab.

    Args:
        resolution: Where colours are compared: 'output', the network's grid, with the truth averaged over each cell, or
            'input', the photograph's pixels, with the prediction upsampled as the model does it.
    """

    def __init__(self, resolution: Resolution = "output") -> None:
        super().__init__()
        check_choice("loss.resolution", resolution, Resolution)
        self.resolution = resolution

    def unreduced(self, prediction: Prediction, batch: Batch) -> UnreducedLoss:
        return l2_loss(*_predicted_and_true(prediction, batch, self.resolution))


class SmoothL1(ElementwiseLoss):
    """Absolute error of ab, squared where it is small.

    Args:
        beta: Error in Lab units below which it is squared. The SIGGRAPH model's code has 1 / 110 of ab / 110: 1.
        resolution: Where colours are compared: 'output', the network's grid, or 'input', the photograph's pixels.
    """

    def __init__(self, beta: float = 1.0, resolution: Resolution = "output") -> None:
        super().__init__()
        if not beta > 0:
            raise ValueError(f"loss.beta={beta} is not positive: 1 is the usual width, in Lab units")
        check_choice("loss.resolution", resolution, Resolution)
        self.beta = beta
        self.resolution = resolution

    def unreduced(self, prediction: Prediction, batch: Batch) -> UnreducedLoss:
        return smooth_l1_loss(*_predicted_and_true(prediction, batch, self.resolution), self.beta)


def average_cells(ab: Tensor, stride: int) -> Tensor:
    """Returns the mean of each cell's pixels, (B, 2, h, w), of ab (B, 2, S, S).

    Zhang et al. take one pixel of each cell; the mean has no aliasing.
    """
    return F.avg_pool2d(ab, stride, ceil_mode=True)


def _predicted_and_true(prediction: Prediction, batch: Batch, resolution: Resolution) -> tuple[Tensor, Tensor]:
    """Returns predicted and true ab: both (B, 2, h, w) for "output", (B, 2, S, S) for "input"."""
    if resolution == "input":
        return at_least_float32(prediction.ab((batch.ab.shape[2], batch.ab.shape[3]))), batch.ab
    return at_least_float32(prediction.grid_ab), average_cells(batch.ab, prediction.stride)
