"""Metrics that need a trained network, by torchmetrics: LPIPS per photograph, FID per set."""

# Shapes: B samples, S pixels a side. rgb is sRGB float32 in [0, 1].

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .score import PerceptualMetric


def load_lpips(device: torch.device) -> PerceptualMetric:
    """Returns LPIPS (Zhang et al., CVPR 2018) on AlexNet.

    Raises ValueError when torchmetrics or the weights are missing.
    """

    def make_lpips() -> Any:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        # The network alone: the metric around it makes the host wait, to check ranges, and processes meet.
        return LearnedPerceptualImagePatchSimilarity("alex").net

    network = _load("lpips", make_lpips).to(device)
    return lambda rgb, true_rgb: network(rgb, true_rgb, normalize=True).flatten()


class Fid:
    """FID (Heusel et al., 2017) of each predictor's images against the true ones.

    Images are rounded down to 8 bits and enlarged to 299 pixels, as the Inception of torch-fidelity expects.
    """

    def __init__(self, names: list[str], device: torch.device) -> None:
        self._metrics: Mapping[str, Any] = {name: _load("fid", _make_fid).to(device) for name in names}

    def update(self, name: str, rgb: Tensor, true_rgb: Tensor) -> None:
        """Adds a batch of images (B, 3, S, S), predicted and true."""
        self._metrics[name].update(rgb, real=False)
        self._metrics[name].update(true_rgb, real=True)

    def compute(self) -> dict[str, float]:
        """Returns each predictor's FID over all processes. Every process must call this."""
        return {name: float(metric.compute()) for name, metric in self._metrics.items()}


def _make_fid() -> Any:
    from torchmetrics.image.fid import FrechetInceptionDistance

    return FrechetInceptionDistance(feature=2048, normalize=True)


def _load(name: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except (ImportError, OSError, RuntimeError) as error:  # no package, no network for the weights, or a damaged file
        reason = " ".join(str(error).split())
        raise ValueError(
            f"--metrics {name} needs a network with published weights, which cannot be loaded here ({reason}): "
            "install 'photochrom[metrics]' and run once where they can be downloaded, or leave it out"
        ) from None
