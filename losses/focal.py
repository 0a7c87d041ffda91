"""Focal losses: the elements of another loss, those that are far from the truth weighing more."""

# Shapes: B samples, E elements per cell, h w cells.

from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from .base import Batch, ColorLoss, ElementLoss, LossOutput, Prediction

Weighting = Literal["relative", "smooth"]

_TINY = 1e-12  # keeps the slope of powers below 1 finite where there is no error


def power_weight(distance: Tensor, gamma: float = 2.0) -> Tensor:
    """(1 - p)^gamma of the distance 1 - p: Lin et al., "Focal loss for dense object detection" (ICCV 2017), eq. 4."""
    return distance.clamp(min=_TINY) ** gamma


def smooth_weight(distance: Tensor, beta: float = 0.2, gamma: float = 1.0) -> Tensor:
    """(2 sigmoid(beta |d|) - 1)^gamma of the distance |d|, in [0, 1).

    Focal-R of Yang et al., "Delving into deep imbalanced regression" (ICML 2021), as in the authors' code, which takes
    the sigmoid's upper half; beta 0.2 and gamma 1 are its defaults.
    """
    return torch.tanh(beta / 2 * distance).clamp(min=_TINY) ** gamma


def relative_weight(error: Tensor, largest: Tensor) -> Tensor:
    """sigmoid(40 (e / e_max - 1/2)) of the errors e and the largest, e_max: a gate that opens at half of it; constant.

    The original project's focal loss (main.py). Where all errors are zero, so is the ratio.
    """
    ratio = error.detach() / largest.clamp(min=torch.finfo(error.dtype).tiny)
    return torch.sigmoid(40 * (ratio - 0.5))


class Focal(ColorLoss):
    """Another loss, focused on what is far from the truth.

    Over a loss of probabilities, such as RebalancedCrossEntropy, each of its elements is weighted by (1 - p)^gamma,
    also with soft targets. Over others, such as L2, by its error.

    Args:
        base: The loss that is wrapped.
        gamma: Exponent of (1 - p), and of 'smooth': 2 in Lin et al., 1 in Yang et al.; 'relative' has none.
        weighting: By what errors weigh, where the base has no probabilities: 'relative', a gate at half of the batch's
            largest, over the sum of weights, as in the original project; or 'smooth', (2 sigmoid(beta |d|) - 1)^gamma,
            Focal-R.
        beta: How fast 'smooth' rises with the distance in Lab units.
    """

    def __init__(
        self, base: ElementLoss, gamma: float = 2.0, weighting: Weighting = "relative", beta: float = 0.2
    ) -> None:
        super().__init__()
        if not isinstance(base, ElementLoss):
            raise ValueError(
                f"Focal weighs the elements of a loss, and loss.base={type(base).__name__} has none: wrap L2, "
                "SmoothL1, RebalancedCrossEntropy or a subclass of photochrom.losses.ElementLoss"
            )
        if not gamma >= 0:
            raise ValueError(f"loss.gamma={gamma} is negative: 2 is that of Lin et al.")
        if not beta > 0:
            raise ValueError(f"loss.beta={beta} is not positive: 0.2 is that of Yang et al.")
        if weighting not in ("relative", "smooth"):
            raise ValueError(f"loss.weighting={weighting!r} is unknown; known are relative, smooth")
        self.base = base
        self.gamma = gamma
        self.weighting = weighting
        self.beta = beta

    def forward(self, prediction: Prediction, batch: Batch) -> LossOutput:
        elements = self.base.elements(prediction, batch)
        error = elements.weight * elements.error
        if self.base.scores_probabilities:
            total = (power_weight(elements.distance, self.gamma) * error).sum() / elements.count
        elif self.weighting == "smooth":
            total = (smooth_weight(elements.distance, self.beta, self.gamma) * error).sum() / elements.count
        else:
            weight = relative_weight(error, self._over_all(error.detach().max(), dist.ReduceOp.MAX))
            # The mean over processes, so that the mean of their losses is the whole batch's.
            total = (weight * error).sum() / (self._over_all(weight.sum(), dist.ReduceOp.SUM) / self._num_processes())
        return LossOutput(total=total, terms={"base": elements.total.detach()})

    def _over_all(self, value: Tensor, how: dist.ReduceOp.RedOpType) -> Tensor:
        """The largest, or the sum, of the value over all processes that train together: all of them focus alike."""
        if self._num_processes() > 1:
            dist.all_reduce(value, how)
        return value

    def _num_processes(self) -> int:
        return dist.get_world_size() if self.training and dist.is_initialized() else 1
