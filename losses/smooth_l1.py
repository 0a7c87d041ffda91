"""The Huber loss of ab, as the later SIGGRAPH 2017 model of Zhang et al. is trained with."""

# Shapes: B samples, H W positions. ab in Lab units.

import torch
from torch import Tensor

from .base import Batch, ElementLoss, Elements, Prediction
from .resolution import Resolution, check_resolution, compared


def smooth_l1_elements(predicted: Tensor, true: Tensor, beta: float = 1.0) -> Elements:
    """|d| - beta / 2 of the difference d of ab (B, 2, H, W), and d^2 / (2 beta) where |d| < beta.

    The total is its mean. Girshick, "Fast R-CNN" (ICCV 2015), eq. 3, for beta = 1.
    """
    distance = (predicted - true).abs()
    error = torch.where(distance < beta, distance.square() / (2 * beta), distance - beta / 2)
    return Elements(error=error, distance=distance, count=distance.numel())


class SmoothL1(ElementLoss):
    """Absolute error of ab, squared where it is small.

    Args:
        beta: Where the square ends, in Lab units. The SIGGRAPH model's training code has 1 / 110 of ab / 110: 1.
        resolution: Where the error is taken: 'output', the network's grid, or 'input', the photograph's pixels.
    """

    def __init__(self, beta: float = 1.0, resolution: Resolution = "output") -> None:
        super().__init__()
        if not beta > 0:
            raise ValueError(f"loss.beta={beta} is not positive: 1 is the usual width, in Lab units")
        check_resolution(resolution)
        self.beta = beta
        self.resolution = resolution

    def elements(self, prediction: Prediction, batch: Batch) -> Elements:
        return smooth_l1_elements(*compared(prediction, batch, self.resolution), self.beta)
