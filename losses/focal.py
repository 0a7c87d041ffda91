"""Focal losses: the elements of another loss, weighted more where they are far from the truth."""

# Shapes: B samples, E elements per cell, h w cells.

from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from .base import Batch, ColorLoss, ElementwiseLoss, LossOutput, Prediction, UnreducedLoss, check_choice

Weighting = Literal["relative", "smooth"]

_EPSILON = 1e-12  # keeps the gradient of powers below 1 finite where the error is 0


def power_weight(distance: Tensor, gamma: float = 2.0) -> Tensor:
    """Returns (1 - p)^gamma of the distance 1 - p.

    Lin et al., "Focal loss for dense object detection" (ICCV 2017), eq. 4.
    """
    return distance.clamp(min=_EPSILON) ** gamma


def smooth_weight(distance: Tensor, beta: float = 0.2, gamma: float = 1.0) -> Tensor:
    """Returns (2 sigmoid(beta |d|) - 1)^gamma of the distance |d|, in [0, 1).

    Focal-R of Yang et al., "Delving into deep imbalanced regression" (ICML 2021), as in the authors' code, which scales
    the sigmoid's upper half to [0, 1); beta 0.2 and gamma 1 are its defaults.
    """
    return torch.tanh(beta / 2 * distance).clamp(min=_EPSILON) ** gamma


def relative_weight(error: Tensor, largest: Tensor) -> Tensor:
    """Returns sigmoid(40 (e / e_max - 1/2)) of the errors e and the largest, e_max; without gradient.

    A soft threshold at half of the largest error, from the original project's focal loss (main.py).
    """
    ratio = error.detach() / largest.clamp(min=torch.finfo(error.dtype).tiny)
    return torch.sigmoid(40 * (ratio - 0.5))


class Focal(ColorLoss):
    """Another loss, with elements weighted more where they are far from the truth.

    Elements of a loss of probabilities, such as RebalancedCrossEntropy, are weighted by (1 - p)^gamma, also with soft
    targets. Elements of other losses, such as L2, are weighted by their error.

    Args:
        base: The wrapped loss.
        gamma: Exponent of (1 - p), and of 'smooth': 2 in Lin et al., 1 in Yang et al.; not used by 'relative'.
        weighting: Weights for a base without probabilities: 'relative', a soft threshold at half of the batch's largest
            error, divided by the sum of weights, as in the original project; or 'smooth', Focal-R's
            (2 sigmoid(beta |d|) - 1)^gamma.
        beta: Slope of 'smooth' over the distance in Lab units.
    """

    def __init__(
        self, base: ElementwiseLoss, gamma: float = 2.0, weighting: Weighting = "relative", beta: float = 0.2
    ) -> None:
        super().__init__()
        if not isinstance(base, ElementwiseLoss):
            raise ValueError(
                f"Focal weights the elements of a loss, and loss.base={type(base).__name__} has none: wrap L2, "
                "SmoothL1, RebalancedCrossEntropy or a subclass of photochrom.losses.ElementwiseLoss"
            )
        if not gamma >= 0:
            raise ValueError(f"loss.gamma={gamma} is negative: 2 is that of Lin et al.")
        if not beta > 0:
            raise ValueError(f"loss.beta={beta} is not positive: 0.2 is that of Yang et al.")
        check_choice("loss.weighting", weighting, Weighting)
        self.base = base
        self.gamma = gamma
        self.weighting = weighting
        self.beta = beta

    def forward(self, prediction: Prediction, batch: Batch) -> LossOutput:
        unreduced = self.base.unreduced(prediction, batch)
        error = unreduced.weight * unreduced.error
        weight = self._absolute_weight(unreduced)
        if weight is not None:
            total = (weight * error).sum() / unreduced.count
        else:
            weight = relative_weight(error, self._all_reduce(error.detach().max(), dist.ReduceOp.MAX))
            # The mean sum of the processes, so that the mean of their losses is the whole batch's loss.
            total = (weight * error).sum() / (self._all_reduce(weight.sum(), dist.ReduceOp.SUM) / self._num_processes())
        return LossOutput(total=total, terms={"base": unreduced.total.detach()})

    def per_sample(self, prediction: Prediction, batch: Batch) -> Tensor:
        if type(self).forward is not Focal.forward:  # a subclass with another reduction
            return super().per_sample(prediction, batch)
        unreduced = self.base.unreduced(prediction, batch)
        error = unreduced.weight * unreduced.error
        weight = self._absolute_weight(unreduced)
        if weight is not None:
            return (weight * error).sum(dim=(1, 2, 3)) / (unreduced.count / len(error))
        weight = relative_weight(error, error.detach().amax(dim=(1, 2, 3), keepdim=True))
        return (weight * error).sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3))

    def _absolute_weight(self, unreduced: UnreducedLoss) -> Tensor | None:
        """Returns the weights that depend on an element alone, or None where they are relative to the largest error."""
        if self.base.scores_probabilities:
            return power_weight(unreduced.distance, self.gamma)
        if self.weighting == "smooth":
            return smooth_weight(unreduced.distance, self.beta, self.gamma)
        return None

    def _all_reduce(self, value: Tensor, op: dist.ReduceOp.RedOpType) -> Tensor:
        """Returns the maximum or the sum over all training processes, so that all of them weight alike."""
        if self._num_processes() > 1:
            dist.all_reduce(value, op)
        return value

    def _num_processes(self) -> int:
        return dist.get_world_size() if self.training and dist.is_initialized() else 1
