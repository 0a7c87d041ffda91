"""Figures that take a trained network of their own, by torchmetrics: LPIPS of a photograph, FID of a set."""

# Shapes: B samples, S pixels a side. rgb is sRGB float32 in [0, 1].

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .score import Perceptual

PERCEPTUAL = ("lpips", "fid")


def load_lpips(device: torch.device) -> Perceptual:
    """LPIPS (Zhang et al., CVPR 2018) on AlexNet. Raises ValueError when torchmetrics or the weights are not there."""

    def made() -> Any:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        return LearnedPerceptualImagePatchSimilarity("alex", reduction="none", normalize=True, sync_on_compute=False)

    network = _loaded("lpips", made).to(device)

    def lpips(rgb: Tensor, true: Tensor) -> Tensor:
        network.reset()  # of one batch's scores, which are kept elsewhere
        network.update(rgb, true)
        return network.compute()

    return lpips


class Fid:
    """FID (Heusel et al., 2017) of predictions, each under its name, against the true pictures.

    The pictures are rounded down to 8 bits, and enlarged to 299 pixels, as Inception's port in torch-fidelity wants.
    """

    def __init__(self, names: list[str], device: torch.device) -> None:
        self._metrics: Mapping[str, Any] = {name: _loaded("fid", _make_fid).to(device) for name in names}

    def update(self, name: str, rgb: Tensor, true: Tensor) -> None:
        """Takes in a batch of pictures (B, 3, S, S), predicted and true."""
        self._metrics[name].update(rgb, real=False)
        self._metrics[name].update(true, real=True)

    def compute(self) -> dict[str, float]:
        """The set's figure of each, over all processes, which must all ask."""
        return {name: float(metric.compute()) for name, metric in self._metrics.items()}


def _make_fid() -> Any:
    from torchmetrics.image.fid import FrechetInceptionDistance

    return FrechetInceptionDistance(feature=2048, normalize=True)


def _loaded(name: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except (ImportError, OSError, RuntimeError) as error:  # no package, no network for the weights, or a damaged file
        reason = " ".join(str(error).split())
        raise ValueError(
            f"--metrics {name} needs a network with published weights, which cannot be loaded here ({reason}): "
            "install 'photochrom[metrics]' and run once where they can be downloaded, or leave it out"
        ) from None
