"""What every loss is.

Losses know neither models nor loaders: a prediction and a batch are whatever has the members named here.
"""

# Shapes: B samples, S pixels, h w cells of the network's output grid. ab in Lab units.

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from torch import Tensor, nn


class Prediction(Protocol):
    """What a loss reads of a prediction: models.ColorPrediction."""

    @property
    def output(self) -> Tensor:
        """(B, 2, h, w), ab."""

    @property
    def stride(self) -> int:
        """Pixels per cell of the output, each way."""

    def ab(self, size: tuple[int, int] | None = None, mode: str = "bilinear") -> Tensor:
        """ab (B, 2, *size)."""


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

    `head` says which kind of network it can score: "ab" for networks that emit colours.
    """

    head: ClassVar[str] = "ab"

    @abstractmethod
    def forward(self, prediction: Prediction, batch: Batch) -> LossOutput:
        """The loss of a prediction for a batch, float32."""
