"""Predictions of both heads in float64, for batches of colours like those of photographs."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from photochrom.losses import ab_bins
from photochrom.models import ColorPrediction
from photochrom.pipelines import LabBatch
from torch import Tensor

Predict = Callable[[Tensor], ColorPrediction]


def batch_of(ab: Tensor) -> LabBatch:
    return LabBatch(L=torch.zeros(len(ab), 1, *ab.shape[2:]), ab=ab, index=torch.arange(len(ab)))


@pytest.fixture
def batch() -> LabBatch:
    """Three photographs of 16 x 12 pixels, the last one grey."""
    ab = 40 * torch.randn(3, 2, 16, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ab[2] *= 0.02
    return batch_of(ab.clamp(-100, 90))


@pytest.fixture(params=["ab", "bins"])
def output(request: pytest.FixtureRequest) -> Tensor:
    """A network's output for the batch, for each head."""
    channels, scale = {"ab": (2, 40), "bins": (313, 2)}[request.param]
    generator = torch.Generator().manual_seed(1)
    return (scale * torch.randn(3, channels, 4, 3, generator=generator, dtype=torch.float64)).requires_grad_()


@pytest.fixture
def predict() -> Predict:
    """Returns the ColorPrediction of an output of either head."""

    def make(output: Tensor) -> ColorPrediction:
        bins = ab_bins().to(output.device) if output.shape[1] == 313 else None
        return ColorPrediction(output=output, input_size=(16, 12), bins=bins)

    return make


@pytest.fixture(scope="session")
def prior() -> list[float]:
    """A distribution over the bins like real ones: mostly grey, and some bins empty."""
    bins = ab_bins().double().numpy()
    share: NDArray[np.float64] = np.exp(-np.linalg.norm(bins, axis=1) / 15)
    share[-20:] = 0
    return list((share / share.sum()).tolist())
