"""What can be scored: trained networks, and colours that take none."""

# Shapes: B samples, S pixels a side.

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...losses import ColorLoss, ab_bins
from ...models import ColorPrediction
from ...pipelines import LabBatch, ShardSet


class Predictor(ABC):
    """What predicts the colours of a batch; `has_loss` says whether it has a loss of its own."""

    has_loss = False

    @abstractmethod
    def ab(self, batch: LabBatch) -> Tensor:
        """ab (B, 2, S, S) in Lab units."""

    def ab_and_loss(self, batch: LabBatch) -> tuple[Tensor, Tensor | None]:
        """ab, and the loss of each photograph (B,), if there is one."""
        return self.ab(batch), None


class ModelPredictor(Predictor):
    """A trained network, and the loss it was trained with; both are left in evaluation mode."""

    has_loss = True

    def __init__(self, model: Callable[[Tensor], ColorPrediction], loss: ColorLoss) -> None:
        self.model, self.loss = model, loss.eval()  # in training mode, losses may speak with other processes
        if isinstance(model, nn.Module):
            model.eval()

    def ab(self, batch: LabBatch) -> Tensor:
        return self.model(batch.L).ab()

    def ab_and_loss(self, batch: LabBatch) -> tuple[Tensor, Tensor]:
        prediction = self.model(batch.L)
        one_by_one = [self.loss(prediction[i : i + 1], batch[i : i + 1]).total for i in range(len(batch))]
        return prediction.ab(), torch.stack(one_by_one).float()


class ConstantPredictor(Predictor):
    """One colour everywhere, (2,) in Lab units."""

    def __init__(self, colour: Tensor) -> None:
        self.colour = colour

    def ab(self, batch: LabBatch) -> Tensor:
        return self.colour.to(batch.ab).view(1, 2, 1, 1).expand_as(batch.ab)


def grey(data: ShardSet) -> ConstantPredictor:
    """No colour at all, whatever the set."""
    return ConstantPredictor(torch.zeros(2))


def mean(data: ShardSet) -> ConstantPredictor:
    """The set's mean colour, as its manifest's histogram has it."""
    return ConstantPredictor((torch.from_numpy(data.prior) @ ab_bins().double()).float())


BASELINES: dict[str, Callable[[ShardSet], ConstantPredictor]] = {"grey": grey, "mean": mean}
