"""What every loss is.

Losses know neither models nor loaders: a prediction and a batch are whatever has the members named here.
"""

# Shapes: B samples, S pixels, h w cells of the network's output grid, E elements per cell. ab in Lab units.

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

Head = Literal["ab", "bins"]


class Prediction(Protocol):
    """What a loss reads of a prediction: models.ColorPrediction."""

    @property
    def head(self) -> Head:
        """What `output` is: "ab", colours, or "bins", logits of the 313 bins."""

    @property
    def output(self) -> Tensor:
        """(B, 2, h, w), ab, or (B, 313, h, w), logits."""

    @property
    def grid_ab(self) -> Tensor:
        """ab (B, 2, h, w) of the output's cells, whatever the head."""

    @property
    def stride(self) -> int:
        """Pixels per cell of the output, each way."""

    def ab(self, size: tuple[int, int] | None = None) -> Tensor:
        """ab (B, 2, *size), by default of the input's size."""


class Batch(Protocol):
    """What a loss reads of a batch: pipelines.LabBatch."""

    @property
    def ab(self) -> Tensor:
        """The true ab (B, 2, S, S)."""


@dataclass(frozen=True, kw_only=True)
class LossOutput:
    """`total` is what training minimises, a scalar, mean over the batch; `terms` are parts of it to be logged."""

    total: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)


class ColorLoss(nn.Module, ABC):
    """Base of all losses; subclass it to plug in your own.

    `head` names the head that a network must have to be scored, "ab" or "bins"; None, when any will do. A constructor's
    argument named `prior` that is left None gets the training set's share of each bin, a list of 313 numbers. In
    training mode, a loss may speak with the other processes, which all compute it at the same time; else it must not.
    """

    head: ClassVar[Head | None] = None

    @abstractmethod
    def forward(self, prediction: Prediction, batch: Batch) -> LossOutput:
        """The loss of a prediction for a batch, float32."""


@dataclass(frozen=True, kw_only=True)
class Elements:
    """A loss in its parts, whose total is sum(weight * error) / count.

    `error` (B, E, h, w) and `distance`, of the same shape, carry gradients; `weight`, which broadcasts to them, is
    constant. `distance` says how far an element is from the truth: |predicted - true| in Lab units, or 1 - p where a
    loss scores probabilities. `count` follows from the shapes, so that the mean over equal parts of a batch is the
    batch's loss.
    """

    error: Tensor
    distance: Tensor
    weight: Tensor | float = 1.0
    count: int

    @property
    def total(self) -> Tensor:
        """The loss, a scalar."""
        return (self.weight * self.error).sum() / self.count


class ElementLoss(ColorLoss):
    """A loss that is a weighted mean over elements, and so can be wrapped by Focal.

    `scores_probabilities` says what its elements' distance is, see Elements.
    """

    scores_probabilities: ClassVar[bool] = False

    @abstractmethod
    def elements(self, prediction: Prediction, batch: Batch) -> Elements:
        """The loss in its parts."""

    def forward(self, prediction: Prediction, batch: Batch) -> LossOutput:
        return LossOutput(total=self.elements(prediction, batch).total)


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in the precision that losses are computed in: float32, and float64 as it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
