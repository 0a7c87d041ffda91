from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from photochrom.losses import RebalancedCrossEntropy, ab_bins, rebalancing_weights, soft_encode
from photochrom.models import ColorPrediction
from photochrom.pipelines import LabBatch
from torch import Tensor

Predict = Callable[[Tensor], ColorPrediction]
Tolerances = dict[torch.dtype, dict[str, float]]


def log_probabilities(output: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """log p (B, 313, h, w) of either head; that of ab by a Gaussian kernel over the centres."""
    if output.shape[1] == 2:
        bins = ab_bins().double().numpy()
        difference = output[:, None] - bins[None, :, :, None, None]
        output = -(difference**2).sum(axis=2) / (2 * sigma**2)
    shifted = output - output.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def slow_loss(
    output: NDArray[np.float64],
    ab: NDArray[np.float64],
    prior: list[float],
    *,
    lam: float = 0.5,
    k: int = 5,
    sigma: float = 5.0,
    target: str = "mean",
    skip_grey: bool = False,
    gamma: float = 0.0,
) -> float:
    """Eq. 2 of Zhang et al., one cell after the other, in float64; with gamma, each term times (1 - p)^gamma."""
    bins = ab_bins().double().numpy()
    weights = rebalancing_weights(torch.tensor(prior, dtype=torch.float64), lam).double().numpy()
    log_p = log_probabilities(output, sigma)
    total = 0.0
    samples, _, height, width = output.shape
    for n, i, j in np.ndindex(samples, height, width):
        pixels = ab[n, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
        true = pixels.mean(axis=(1, 2)) if target == "mean" else pixels[:, 0, 0]
        distance = ((bins - true) ** 2).sum(axis=1)
        nearest = np.argsort(distance)[:k]
        share = np.exp(-distance[nearest] / (2 * sigma**2))
        share /= share.sum()
        term = log_p[n, nearest, i, j]
        cell = -(share * (1 - np.exp(term)) ** gamma * term).sum() * weights[nearest[0]]
        total += 0 if skip_grey and np.abs(ab[n]).max() <= 5 else cell
    return total / (samples * height * width)


@pytest.mark.parametrize(
    "settings",
    [{}, {"k": 10}, {"k": 1, "sigma": 8.0}, {"lam": 1.0}, {"lam": 0.0}, {"target": "point"}, {"skip_grey": True}],
    ids=str,
)
def test_value_against_numpy(
    settings: dict,
    output: Tensor,
    batch: LabBatch,
    predict: Predict,
    prior: list[float],
    tolerances: Tolerances,
) -> None:
    loss = RebalancedCrossEntropy(prior=prior, **settings)
    expected = slow_loss(output.detach().numpy(), batch.ab.numpy(), prior, **settings)
    total = loss(predict(output), batch).total.float()  # its weights and shares are float32
    torch.testing.assert_close(total, torch.tensor(expected).float(), **tolerances[torch.float32])


def test_gradient(output: Tensor, batch: LabBatch, predict: Predict, prior: list[float]) -> None:
    loss = RebalancedCrossEntropy(prior=prior, skip_grey=True)
    assert torch.autograd.gradcheck(lambda tensor: loss(predict(tensor), batch).total, output, fast_mode=True)


def test_gradient_is_that_of_the_paper(batch: LabBatch, predict: Predict, prior: list[float]) -> None:
    """For logits it is weight x (p - target) / cells, with the target spread over all bins."""
    output = torch.randn(3, 313, 4, 3, dtype=torch.float64, requires_grad=True)
    loss = RebalancedCrossEntropy(prior=prior)
    unreduced = loss.unreduced(predict(output), batch)
    unreduced.total.backward()
    index, share = soft_encode(torch.nn.functional.avg_pool2d(batch.ab, 4))
    target = torch.zeros_like(output).scatter(1, index, share.double())
    weight = rebalancing_weights(torch.tensor(prior, dtype=torch.float64))[index[:, :1]]
    expected = weight * (output.detach().softmax(dim=1) - target) / 36
    torch.testing.assert_close(output.grad, expected, rtol=1e-5, atol=1e-9)


def test_the_ab_head_is_scored_best_where_it_is_right(batch: LabBatch, predict: Predict, prior: list[float]) -> None:
    loss = RebalancedCrossEntropy(prior=prior)
    right = torch.nn.functional.avg_pool2d(batch.ab, 4)
    best = loss(predict(right), batch).total
    for step in (-3.0, 3.0):
        assert loss(predict(right + step), batch).total > best


def test_grey_photographs_can_be_ignored(output: Tensor, batch: LabBatch, predict: Predict, prior: list[float]) -> None:
    loss = RebalancedCrossEntropy(prior=prior, skip_grey=True)
    loss(predict(output), batch).total.backward()
    assert output.grad is not None
    assert (output.grad[2] == 0).all()
    assert output.grad[:2].abs().sum() > 0
    grey = batch[2:3]
    assert loss(predict(output[2:3]), grey).total.item() == 0


def test_extreme_colours_and_logits_stay_finite(batch: LabBatch, predict: Predict, prior: list[float]) -> None:
    loss = RebalancedCrossEntropy(prior=prior)
    for output in (torch.full((3, 2, 4, 3), 500.0), 1e4 * torch.randn(3, 313, 4, 3)):
        output.requires_grad_()
        total = loss(predict(output), replace(batch, ab=batch.ab.float())).total
        total.backward()
        assert total.isfinite()
        assert output.grad is not None
        assert output.grad.isfinite().all()


def test_no_tensor_of_the_target_is_313_wide(batch: LabBatch, predict: Predict, prior: list[float]) -> None:
    unreduced = RebalancedCrossEntropy(prior=prior).unreduced(predict(torch.randn(3, 313, 4, 3)), batch)
    assert unreduced.error.shape == unreduced.distance.shape == (3, 5, 4, 3)
    assert isinstance(unreduced.weight, Tensor)
    assert unreduced.weight.shape == (3, 5, 4, 3)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"prior": None}, "loss.prior is missing"),
        ({"prior": [0.5, 0.5]}, "loss.prior has 2 numbers in place of 313"),
        ({"lam": 1.5}, r"loss.lam=1.5 is not in \[0, 1\]: 0.5 is the paper's"),
        ({"k": 0}, r"loss.k=0 is not in 1\.\.313"),
        ({"sigma": 0.0}, "loss.sigma=0.0 is not positive"),
        ({"target": "dot"}, "loss.target='dot' is unknown; known are mean, point"),
    ],
)
def test_settings_out_of_range(settings: dict, sentence: str, prior: list[float]) -> None:
    with pytest.raises(ValueError, match=sentence):
        RebalancedCrossEntropy(**{"prior": prior, **settings})


def test_without_rebalancing_no_prior_is_needed() -> None:
    assert (RebalancedCrossEntropy(lam=1).class_weights == 1).all()
