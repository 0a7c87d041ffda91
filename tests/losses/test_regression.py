from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from photochrom.losses import L2, LOSSES, SmoothL1
from photochrom.models import ColorPrediction
from photochrom.pipelines import LabBatch
from torch import Tensor

Predict = Callable[[Tensor], ColorPrediction]
Tolerances = dict[torch.dtype, dict[str, float]]


def batch_of(ab: Tensor) -> LabBatch:
    return LabBatch(L=torch.zeros(len(ab), 1, *ab.shape[2:]), ab=ab, index=torch.arange(len(ab)))


@pytest.fixture
def example() -> tuple[ColorPrediction, LabBatch]:
    generator = torch.Generator().manual_seed(0)
    output = 100 * torch.randn(3, 2, 8, 6, generator=generator, dtype=torch.float64)
    ab = 100 * torch.randn(3, 2, 32, 24, generator=generator, dtype=torch.float64)
    return ColorPrediction(output=output, input_size=(32, 24)), batch_of(ab)


def test_value_at_the_output_against_numpy(example: tuple[ColorPrediction, LabBatch], tolerances: Tolerances) -> None:
    prediction, batch = example
    target = batch.ab.numpy().reshape(3, 2, 8, 4, 6, 4).mean(axis=(3, 5))
    expected = ((prediction.output.numpy() - target) ** 2).mean()
    torch.testing.assert_close(L2()(prediction, batch).total, torch.tensor(expected), **tolerances[torch.float64])


def test_value_at_the_input_as_in_the_original_project(
    example: tuple[ColorPrediction, LabBatch], tolerances: Tolerances
) -> None:
    prediction, batch = example
    grown = F.interpolate(prediction.output, size=(32, 24), mode="bicubic", align_corners=False).numpy()
    expected = ((grown - batch.ab.numpy()) ** 2).mean()
    bicubic = replace(prediction, upsampling="bicubic")
    total = L2(resolution="input")(bicubic, batch).total
    torch.testing.assert_close(total, torch.tensor(expected), **tolerances[torch.float64])


def test_cells_over_the_edge_are_scored_on_the_pixels_they_cover(tolerances: Tolerances) -> None:
    ab = torch.randn(1, 2, 10, 9)
    output = torch.zeros(1, 2, 3, 3)
    expected = np.mean(
        [
            ab[0, c, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean() ** 2
            for c in range(2)
            for i in range(3)
            for j in range(3)
        ]
    )
    total = L2()(ColorPrediction(output=output, input_size=(10, 9)), batch_of(ab)).total
    torch.testing.assert_close(total, torch.tensor(expected).float(), **tolerances[torch.float32])


@pytest.mark.parametrize("resolution", ["output", "input"])
def test_gradient_in_float64(resolution: str, output: Tensor, batch: LabBatch, predict: Predict) -> None:
    """For both heads: logits are decoded to colours first."""
    loss = L2(resolution=resolution)
    assert torch.autograd.gradcheck(lambda tensor: loss(predict(tensor), batch).total, output, fast_mode=True)


@pytest.mark.parametrize("resolution", ["output", "input"])
def test_gradient(resolution: str) -> None:
    ab = torch.randn(1, 2, 8, 8, dtype=torch.float64)
    # In float32, as losses are computed.
    output = torch.randn(1, 2, 2, 2, requires_grad=True)
    L2(resolution=resolution)(ColorPrediction(output=output, input_size=(8, 8)), batch_of(ab.float())).total.backward()
    epsilon = 1e-2
    for position in np.ndindex(1, 2, 2, 2):
        moved = []
        for sign in (1, -1):
            other = output.detach().clone()
            other[position] += sign * epsilon
            moved.append(
                L2(resolution=resolution)(ColorPrediction(output=other, input_size=(8, 8)), batch_of(ab.float()))
            )
        slope = (moved[0].total - moved[1].total) / (2 * epsilon)
        assert output.grad[position].item() == pytest.approx(slope.item(), abs=2e-4)


def test_a_perfect_prediction_has_no_loss() -> None:
    ab = torch.full((2, 2, 16, 16), 30.0)
    for resolution in ("output", "input"):
        prediction = ColorPrediction(output=torch.full((2, 2, 4, 4), 30.0), input_size=(16, 16))
        assert L2(resolution=resolution)(prediction, batch_of(ab)).total.item() == pytest.approx(0, abs=1e-8)


def test_float32_under_autocast(device: torch.device) -> None:
    prediction = ColorPrediction(output=torch.randn(1, 2, 4, 4, device=device).bfloat16(), input_size=(16, 16))
    batch = batch_of(torch.randn(1, 2, 16, 16))
    batch = LabBatch(L=batch.L.to(device), ab=batch.ab.to(device), index=batch.index)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert L2()(prediction, batch).total.dtype == torch.float32


def test_an_unknown_resolution_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"loss.resolution='half' is unknown; known are output, input"):
        L2(resolution="half")


@pytest.mark.parametrize("beta", [0.5, 1.0, 30.0])
def test_smooth_l1_against_numpy_and_torch(
    beta: float, output: Tensor, batch: LabBatch, predict: Predict, tolerances: Tolerances
) -> None:
    prediction = predict(output)
    predicted = prediction.grid_ab.detach().numpy()
    true = batch.ab.numpy().reshape(3, 2, 4, 4, 3, 4).mean(axis=(3, 5))
    distance = abs(predicted - true)
    small = distance < beta
    expected = (small * distance**2 / (2 * beta) + ~small * (distance - beta / 2)).mean()
    total = SmoothL1(beta=beta)(prediction, batch).total
    torch.testing.assert_close(total, torch.tensor(expected), **tolerances[torch.float64])
    reference = F.smooth_l1_loss(prediction.grid_ab, torch.from_numpy(true), beta=beta)
    torch.testing.assert_close(total, reference, **tolerances[torch.float64])


def test_gradient_of_smooth_l1(batch: LabBatch, predict: Predict) -> None:
    output = 40 * torch.randn(3, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    output = output.detach().requires_grad_()
    for resolution in ("output", "input"):
        loss = SmoothL1(resolution=resolution)
        assert torch.autograd.gradcheck(lambda tensor, loss=loss: loss(predict(tensor), batch).total, output)


@pytest.mark.parametrize("beta", [0.0, -1.0])
def test_a_beta_that_is_not_positive_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match=f"loss.beta={beta} is not positive"):
        SmoothL1(beta=beta)


def test_the_registry_names_classes_by_their_names() -> None:
    assert {name: cls.__name__ for name, cls in LOSSES.items()} == {name: name for name in LOSSES}
