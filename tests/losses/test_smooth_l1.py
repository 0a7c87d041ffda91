from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from photochrom.losses import SmoothL1
from photochrom.models import ColorPrediction
from photochrom.pipelines import LabBatch
from torch import Tensor

Predict = Callable[[Tensor], ColorPrediction]


@pytest.mark.parametrize("beta", [0.5, 1.0, 30.0])
def test_value_against_numpy_and_torch(beta: float, output: Tensor, batch: LabBatch, predict: Predict) -> None:
    prediction = predict(output)
    predicted = prediction.grid_ab.detach().numpy()
    true = batch.ab.numpy().reshape(3, 2, 4, 4, 3, 4).mean(axis=(3, 5))
    distance = abs(predicted - true)
    small = distance < beta
    expected = (small * distance**2 / (2 * beta) + ~small * (distance - beta / 2)).mean()
    assert SmoothL1(beta=beta)(prediction, batch).total.item() == pytest.approx(expected, rel=1e-9)
    assert expected == pytest.approx(
        F.smooth_l1_loss(prediction.grid_ab, torch.from_numpy(true), beta=beta).item(), rel=1e-9
    )


def test_gradient(batch: LabBatch, predict: Predict) -> None:
    output = 40 * torch.randn(3, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    output = output.detach().requires_grad_()
    for resolution in ("output", "input"):
        loss = SmoothL1(resolution=resolution)
        assert torch.autograd.gradcheck(lambda tensor, loss=loss: loss(predict(tensor), batch).total, output)


@pytest.mark.parametrize("beta", [0.0, -1.0])
def test_a_width_that_is_none_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match=f"loss.beta={beta} is not positive"):
        SmoothL1(beta=beta)
