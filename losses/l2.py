"""The squared error of ab, the loss of the original project."""

# Shapes: B samples, H W positions. ab in Lab units.

from torch import Tensor

from .base import Batch, ElementLoss, Elements, Prediction
from .resolution import Resolution, check_resolution, compared


def l2_elements(predicted: Tensor, true: Tensor) -> Elements:
    """The squared error of ab (B, 2, H, W), in squared Lab units; the total is its mean.

    The total's root is the `rmse_ab` of evaluations. Example:

        >>> import torch
        >>> l2_elements(torch.zeros(1, 2, 4, 4), torch.full((1, 2, 4, 4), 3.0)).total
        tensor(9.)
    """
    difference = predicted - true
    return Elements(error=difference.square(), distance=difference.abs(), count=difference.numel())


class L2(ElementLoss):
    """Squared error of ab.

    Args:
        resolution: Where the error is taken: 'output', the network's grid, to which the truth is averaged, or 'input',
            the photograph's pixels, to which the prediction is upsampled as the model does it.
    """

    def __init__(self, resolution: Resolution = "output") -> None:
        super().__init__()
        check_resolution(resolution)
        self.resolution = resolution

    def elements(self, prediction: Prediction, batch: Batch) -> Elements:
        return l2_elements(*compared(prediction, batch, self.resolution))
