"""Every loss for both heads: float32 against float64, under bfloat16 autocast, and compiled."""

from collections.abc import Callable

import pytest
import torch
from photochrom.losses import L2, ColorLoss, Focal, RebalancedCrossEntropy, SmoothL1
from photochrom.models import ColorPrediction
from photochrom.pipelines import LabBatch
from torch import Tensor

Predict = Callable[[Tensor], ColorPrediction]

LOSSES: dict[str, Callable[[list[float]], ColorLoss]] = {
    "L2": lambda prior: L2(),
    "L2 at the input": lambda prior: L2(resolution="input"),
    "SmoothL1": lambda prior: SmoothL1(),
    "RebalancedCrossEntropy": lambda prior: RebalancedCrossEntropy(prior=prior, skip_grey=True),
    "Focal over L2": lambda prior: Focal(L2()),
    "Focal-R": lambda prior: Focal(L2(), weighting="smooth"),
    "Focal over RebalancedCrossEntropy": lambda prior: Focal(RebalancedCrossEntropy(prior=prior)),
}


@pytest.fixture(params=LOSSES)
def loss(request: pytest.FixtureRequest, prior: list[float]) -> ColorLoss:
    return LOSSES[request.param](prior)


def score(loss: ColorLoss, prediction: ColorPrediction, batch: LabBatch, leaf: Tensor) -> tuple[Tensor, Tensor]:
    total = loss(prediction, batch).total
    (gradient,) = torch.autograd.grad(total, leaf)
    return total.detach(), gradient


def single(batch: LabBatch, device: torch.device | str = "cpu") -> LabBatch:
    return LabBatch(L=batch.L.float().to(device), ab=batch.ab.float().to(device), index=batch.index)


def test_compiled_in_one_piece(loss: ColorLoss, output: Tensor, batch: LabBatch, predict: Predict) -> None:
    """The cached bins and their candidates are constants of the compiled graph."""
    nodes = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        nodes.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch.compiler.reset()
    output = output.float()
    compiled = torch.compile(lambda: loss(predict(output), single(batch)).total, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(), loss(predict(output), single(batch)).total)
    assert nodes
    assert not any("cartesian_prod" in node or "argsort" in node for node in nodes)


def test_float32(loss: ColorLoss, output: Tensor, batch: LabBatch, predict: Predict) -> None:
    expected = score(loss, predict(output), batch, output)
    leaf = output.detach().float().requires_grad_()
    for value, reference in zip(score(loss, predict(leaf), single(batch), leaf), expected, strict=True):
        assert value.dtype == torch.float32
        # Relative to the whole gradient: where terms of hundreds cancel, single values are not exact.
        atol = 1e-5 * reference.abs().max().item()
        torch.testing.assert_close(value.double(), reference, rtol=1e-4, atol=atol)


def test_bfloat16_autocast(
    loss: ColorLoss, output: Tensor, batch: LabBatch, predict: Predict, device: torch.device
) -> None:
    leaf = output.detach().to(device).bfloat16().requires_grad_()
    moved = single(batch, device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        total, gradient = score(loss.to(device), predict(leaf), moved, leaf)
    assert total.dtype == torch.float32
    assert gradient.isfinite().all()
    # The prediction is rounded, also where it is upsampled; the loss is not.
    rounded = leaf.detach().float().requires_grad_()
    torch.testing.assert_close(total, score(loss, predict(rounded), moved, rounded)[0], rtol=1e-3, atol=0)
