"""Predictors that an evaluation scores: trained networks, and constant colours as baselines."""

# Shapes: B samples, S pixels a side.

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...losses import ColorLoss, ab_bins
from ...models import ColorPrediction
from ...pipelines import LabBatch, ShardSet


class Predictor(ABC):
    """Predicts the colours of a batch. `has_loss` is true if it has a loss of its own."""

    has_loss = False

    @abstractmethod
    def ab(self, batch: LabBatch) -> Tensor:
        """Returns ab (B, 2, S, S) in Lab units."""

    def ab_and_loss(self, batch: LabBatch) -> tuple[Tensor, Tensor | None]:
        """Returns ab, and the loss of each photograph (B,) if there is one."""
        return self.ab(batch), None


class ModelPredictor(Predictor):
    """A trained network and the loss it was trained with. Both are put into evaluation mode."""

    has_loss = True

    def __init__(self, model: Callable[[Tensor], ColorPrediction], loss: ColorLoss) -> None:
        self.model, self.loss = model, loss.eval()  # in training mode, a loss may communicate with other processes
        if isinstance(model, nn.Module):
            model.eval()

    def ab(self, batch: LabBatch) -> Tensor:
        return self.model(batch.L).ab()

    def ab_and_loss(self, batch: LabBatch) -> tuple[Tensor, Tensor]:
        prediction = self.model(batch.L)
        return prediction.ab(), self.loss.per_sample(prediction, batch).float()


class ConstantPredictor(Predictor):
    """One colour (2,), in Lab units, for every pixel."""

    def __init__(self, color: Tensor) -> None:
        self.color = color

    def ab(self, batch: LabBatch) -> Tensor:
        self.color = self.color.to(batch.ab)  # once: each copy from the host makes it wait for the device
        return self.color.view(1, 2, 1, 1).expand_as(batch.ab)


def grey(data: ShardSet) -> ConstantPredictor:
    """Predicts no colour."""
    return ConstantPredictor(torch.zeros(2))


def mean(data: ShardSet) -> ConstantPredictor:
    """Predicts the set's mean colour, from the histogram in its manifest."""
    return ConstantPredictor((torch.from_numpy(data.prior) @ ab_bins().double()).float())


BASELINES: dict[str, Callable[[ShardSet], ConstantPredictor]] = {"grey": grey, "mean": mean}
