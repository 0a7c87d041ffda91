"""The loss of each sample alone equals the loss of a batch of that sample, for all losses and both heads."""

from collections.abc import Callable

import pytest
import torch
from photochrom.losses import L2, ColorLoss, Focal, LossOutput, RebalancedCrossEntropy, SmoothL1
from photochrom.losses.base import Batch, Prediction
from photochrom.models import ColorPrediction
from photochrom.pipelines import LabBatch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Penalized(L2):
    """A user's loss whose `forward` is not the mean of its elements."""

    def forward(self, prediction: Prediction, batch: Batch) -> LossOutput:
        return LossOutput(total=super().forward(prediction, batch).total + prediction.output.square().mean())


class PenalizedFocal(Focal):
    """The same of a loss that wraps another."""

    def forward(self, prediction: Prediction, batch: Batch) -> LossOutput:
        return LossOutput(total=super().forward(prediction, batch).total + prediction.output.square().mean())


LOSSES: dict[str, Callable[[list[float]], ColorLoss]] = {
    "l2": lambda prior: L2(),
    "l2 of pixels": lambda prior: L2(resolution="input"),
    "smooth_l1": lambda prior: SmoothL1(),
    "cross-entropy": lambda prior: RebalancedCrossEntropy(prior),
    "cross-entropy of colourful ones": lambda prior: RebalancedCrossEntropy(prior, skip_grey=True),
    "focal l2": lambda prior: Focal(L2()),
    "focal l2, smooth": lambda prior: Focal(L2(), weighting="smooth"),
    "focal cross-entropy": lambda prior: Focal(RebalancedCrossEntropy(prior)),
    "another reduction": lambda prior: Penalized(),
    "another reduction of focal l2": lambda prior: PenalizedFocal(L2()),
}


@pytest.mark.parametrize("name", LOSSES)
def test_each_sample_has_the_loss_of_a_batch_of_its_own(
    name: str,
    batch: LabBatch,
    output: Tensor,
    predict: Callable[[Tensor], ColorPrediction],
    prior: list[float],
) -> None:
    loss = LOSSES[name](prior).double().eval()
    prediction = predict(output)
    expected = [loss(prediction[i : i + 1], batch[i : i + 1]).total.item() for i in range(len(batch))]
    assert loss.per_sample(prediction, batch).tolist() == pytest.approx(expected, rel=1e-9)
    assert len(set(expected)) == len(batch)


class CountOps(TorchDispatchMode):
    """Counts the operators that a GPU would launch, as far as a CPU tells."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [name for name in LOSSES if "another reduction" not in name])
def test_the_number_of_operators_does_not_depend_on_the_batch(
    name: str, output: Tensor, predict: Callable[[Tensor], ColorPrediction], prior: list[float], batch: LabBatch
) -> None:
    loss, counts = LOSSES[name](prior).eval(), []
    for number in (1, 3):
        with torch.inference_mode(), CountOps() as ops:
            loss.per_sample(predict(output.detach()[:number].float()), batch[:number])
        counts.append(ops.count)
    assert counts[0] == counts[1] < 80
