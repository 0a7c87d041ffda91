from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from photochrom.losses import L2, ColorLoss, Focal, LossOutput, RebalancedCrossEntropy, SmoothL1, ab_bins
from photochrom.models import ColorPrediction
from photochrom.pipelines import LabBatch
from torch import Tensor

Predict = Callable[[Tensor], ColorPrediction]
Tolerances = dict[torch.dtype, dict[str, float]]


def squared_errors(prediction: ColorPrediction, batch: LabBatch) -> NDArray[np.float64]:
    true = batch.ab.numpy().reshape(3, 2, 4, 4, 3, 4).mean(axis=(3, 5))
    errors: NDArray[np.float64] = (prediction.grid_ab.detach().numpy() - true) ** 2
    return errors


def test_over_l2_it_is_that_of_the_original_project(
    output: Tensor, batch: LabBatch, predict: Predict, tolerances: Tolerances
) -> None:
    """main.py: sum(m e) / sum(m), m = sigmoid(40 (e / max(e) - 1/2)), element by element."""
    error = squared_errors(predict(output), batch)
    mask = 1 / (1 + np.exp(-40 * (error / error.max() - 0.5)))
    total = Focal(L2())(predict(output), batch).total
    assert total.item() == pytest.approx((mask * error).sum() / mask.sum(), rel=tolerances[torch.float64]["rtol"])


def test_its_weights_are_constant(batch: LabBatch, predict: Predict, tolerances: Tolerances) -> None:
    """The gradient is that of sum(m e) / sum(m) with m held, in NumPy: m 2 d / sum(m)."""
    output = (40 * torch.randn(3, 2, 4, 3, dtype=torch.float64)).requires_grad_()
    Focal(L2())(predict(output), batch).total.backward()
    true = batch.ab.numpy().reshape(3, 2, 4, 4, 3, 4).mean(axis=(3, 5))
    difference = output.detach().numpy() - true
    mask = 1 / (1 + np.exp(-40 * (difference**2 / (difference**2).max() - 0.5)))
    assert output.grad is not None
    np.testing.assert_allclose(output.grad.numpy(), mask * 2 * difference / mask.sum(), **tolerances[torch.float64])


@pytest.mark.parametrize(("beta", "gamma"), [(0.2, 1.0), (0.05, 2.0), (1.0, 0.0), (0.2, 0.5)])
def test_smoothly_over_l2_it_is_focal_r(
    beta: float, gamma: float, output: Tensor, batch: LabBatch, predict: Predict, tolerances: Tolerances
) -> None:
    """(2 sigmoid(beta |d|) - 1)^gamma d^2, as weighted_focal_mse_loss of Yang et al."""
    error = squared_errors(predict(output), batch)
    factor = (2 / (1 + np.exp(-beta * np.sqrt(error))) - 1) ** gamma
    total = Focal(L2(), weighting="smooth", beta=beta, gamma=gamma)(predict(output), batch).total
    assert total.item() == pytest.approx((factor * error).mean(), rel=tolerances[torch.float64]["rtol"])


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_over_cross_entropy_it_is_that_of_lin_et_al(
    gamma: float, output: Tensor, batch: LabBatch, predict: Predict, prior: list[float], tolerances: Tolerances
) -> None:
    """(1 - p)^gamma on each term of the soft target, in NumPy, cell by cell."""
    base = RebalancedCrossEntropy(prior=prior)
    bins = ab_bins().double().numpy()
    raw = output.detach().numpy()
    if raw.shape[1] == 2:
        raw = -((raw[:, None] - bins[None, :, :, None, None]) ** 2).sum(axis=2) / 50
    p = np.exp(raw - raw.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    weights = base.class_weights.double().numpy()
    expected = 0.0
    for n, i, j in np.ndindex(3, 4, 3):
        true = batch.ab[n, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].numpy().mean(axis=(1, 2))
        distance = ((bins - true) ** 2).sum(axis=1)
        nearest = np.argsort(distance)[:5]
        share = np.exp(-distance[nearest] / 50) / np.exp(-distance[nearest] / 50).sum()
        q = np.maximum(p[n, nearest, i, j], 1e-300)
        expected -= weights[nearest[0]] * (share * (1 - q) ** gamma * np.log(q)).sum() / 36
    total = Focal(base, gamma=gamma)(predict(output), batch).total.float()  # its weights and shares are float32
    torch.testing.assert_close(total, torch.tensor(expected).float(), **tolerances[torch.float32])


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_gradients(gamma: float, output: Tensor, batch: LabBatch, predict: Predict, prior: list[float]) -> None:
    for loss in (
        Focal(RebalancedCrossEntropy(prior=prior), gamma=gamma),
        Focal(L2(), weighting="smooth", gamma=gamma),
        Focal(SmoothL1(), weighting="smooth", gamma=gamma),
    ):
        assert torch.autograd.gradcheck(
            lambda tensor, loss=loss: loss(predict(tensor), batch).total, output, fast_mode=True
        )


@pytest.mark.parametrize("settings", [{}, *({"weighting": "smooth", "gamma": g} for g in (0.0, 0.5, 2.0))], ids=str)
@pytest.mark.parametrize("base", [L2, SmoothL1])
def test_no_error_is_no_loss(base: type[L2], settings: dict, predict: Predict) -> None:
    output = torch.full((3, 2, 4, 3), 30.0, requires_grad=True)
    batch = LabBatch(L=torch.zeros(3, 1, 16, 12), ab=torch.full((3, 2, 16, 12), 30.0), index=torch.arange(3))
    total = Focal(base(), **settings)(predict(output), batch).total
    total.backward()
    assert total.item() == 0
    assert output.grad is not None
    assert (output.grad == 0).all()


def test_confident_correct_predictions_weigh_little(predict: Predict) -> None:
    bins = ab_bins()
    confident = torch.full((1, 313, 4, 3), -20.0)
    confident[:, 150] = 20.0
    ab = bins[150].view(1, 2, 1, 1).expand(1, 2, 16, 12)
    batch = LabBatch(L=torch.zeros(1, 1, 16, 12), ab=ab, index=torch.arange(1))
    loss = RebalancedCrossEntropy(lam=1, k=1)
    confident.requires_grad_()
    total = Focal(loss, gamma=0.5)(predict(confident), batch).total
    total.backward()
    assert total.item() == pytest.approx(0, abs=1e-6)
    assert confident.grad is not None
    assert confident.grad.isfinite().all()


def test_the_wrapped_loss_is_reported(output: Tensor, batch: LabBatch, predict: Predict) -> None:
    terms = Focal(L2())(predict(output), batch).terms
    assert terms["base"].item() == L2()(predict(output), batch).total.item()
    assert not terms["base"].requires_grad


class Opaque(ColorLoss):
    def forward(self, prediction: ColorPrediction, batch: LabBatch) -> LossOutput:
        return LossOutput(total=prediction.output.mean())


def test_a_loss_without_elements_is_refused() -> None:
    with pytest.raises(ValueError, match=r"loss\.base=Opaque has none: wrap L2, SmoothL1, RebalancedCrossEntropy or a"):
        Focal(Opaque())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"gamma": -1.0}, "loss.gamma=-1.0 is negative"),
        ({"beta": 0.0}, "loss.beta=0.0 is not positive"),
        ({"weighting": "hard"}, "loss.weighting='hard' is unknown; known are relative, smooth"),
    ],
)
def test_settings_out_of_range(settings: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Focal(L2(), **settings)
