"""The base classes of losses.

Losses import neither models nor loaders: predictions and batches are any objects with the members named here.
"""

# Shapes: B samples, S pixels, h w cells of the network's output grid, E elements per cell. ab in Lab units.

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, Self, get_args

import torch
from torch import Tensor, nn

Head = Literal["ab", "bins"]


class Prediction(Protocol):
    """The members of models.ColorPrediction that losses use."""

    @property
    def head(self) -> Head:
        """The kind of `output`: "ab", colours, or "bins", logits of the 313 bins."""

    @property
    def output(self) -> Tensor:
        """ab (B, 2, h, w), or logits (B, 313, h, w)."""

    @property
    def grid_ab(self) -> Tensor:
        """ab (B, 2, h, w) of the output's cells, for both heads."""

    @property
    def stride(self) -> int:
        """Pixels per cell of the output, vertically and horizontally."""

    def ab(self, size: tuple[int, int] | None = None) -> Tensor:
        """Returns ab (B, 2, *size), by default at the input's size."""

    def __getitem__(self, part: slice) -> Self:
        """Returns the prediction of some samples."""


class Batch(Protocol):
    """The members of pipelines.LabBatch that losses use."""

    @property
    def ab(self) -> Tensor:
        """The true ab (B, 2, S, S)."""

    def __len__(self) -> int:
        """The number of samples."""

    def __getitem__(self, part: slice) -> Self:
        """Returns some of the samples."""


@dataclass(frozen=True, kw_only=True)
class LossOutput:
    """`total` is the scalar that training minimises, a mean over the batch; `terms` are parts of it to log."""

    total: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)


class ColorLoss(nn.Module, ABC):
    """Base of all losses; subclass it to add your own.

    `head` is the head that the network must have, "ab" or "bins"; None accepts both. A constructor argument named
    `prior` that is left None is set to the training set's share of each bin, a list of 313 numbers. In training mode,
    all processes compute the loss at the same time, and it may communicate with them; in evaluation mode it must not.
    """

    head: ClassVar[Head | None] = None

    @abstractmethod
    def forward(self, prediction: Prediction, batch: Batch) -> LossOutput:
        """Returns the float32 loss of a prediction for a batch."""

    def per_sample(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Returns the loss of each sample alone, (B,); for use in evaluation mode.

        It calls `forward` for each sample; a subclass that can compute all at once saves a GPU thousands of launches.
        """
        return torch.stack([self(prediction[i : i + 1], batch[i : i + 1]).total for i in range(len(batch))])


@dataclass(frozen=True, kw_only=True)
class UnreducedLoss:
    """A loss before its reduction (torch's reduction="none"). Its reduction is sum(weight * error) / count.

    `error` and `distance` are (B, E, h, w) and carry gradients; `weight` is constant and broadcasts to them. `distance`
    tells how far an element is from the truth: |predicted - true| in Lab units, or 1 - p for losses of probabilities.
    A sample's elements depend on that sample alone, and `count` on shapes only, so that the mean over equal parts of a
    batch is the batch's loss.
    """

    error: Tensor
    distance: Tensor
    weight: Tensor | float = 1.0
    count: int

    @property
    def total(self) -> Tensor:
        """The reduced loss, a scalar."""
        return (self.weight * self.error).sum() / self.count

    @property
    def per_sample(self) -> Tensor:
        """The reduced loss of each sample alone, (B,)."""
        return (self.weight * self.error).sum(dim=(1, 2, 3)) / (self.count / len(self.error))


class ElementwiseLoss(ColorLoss):
    """A loss that is a weighted mean over elements. `Focal` can wrap it.

    `scores_probabilities` tells which distance its elements have, see UnreducedLoss.
    """

    scores_probabilities: ClassVar[bool] = False

    @abstractmethod
    def unreduced(self, prediction: Prediction, batch: Batch) -> UnreducedLoss:
        """Returns the loss of each element."""

    def forward(self, prediction: Prediction, batch: Batch) -> LossOutput:
        return LossOutput(total=self.unreduced(prediction, batch).total)

    def per_sample(self, prediction: Prediction, batch: Batch) -> Tensor:
        if type(self).forward is not ElementwiseLoss.forward:  # a subclass with another reduction
            return super().per_sample(prediction, batch)
        return self.unreduced(prediction, batch).per_sample


def check_choice(name: str, value: object, choices: Any) -> None:
    """Raises ValueError, which names the setting, if the value is not one of a Literal's."""
    if value not in get_args(choices):
        raise ValueError(f"{name}={value!r} is unknown; known are {', '.join(get_args(choices))}")


def at_least_float32(tensor: Tensor) -> Tensor:
    """Returns the tensor in float32, or in float64 if it is float64."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
