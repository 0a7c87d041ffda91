"""The best and the worst photographs of a set, as one predictor colours them."""

# Shapes: N photographs.

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...pipelines import Sample
from ...pipelines.loading.base import Loader
from ..training.preview import triptychs
from .predictors import Predictor
from .score import predictions

VERSIONS = ("grey", "pred", "real")


def chosen(values: NDArray[np.float32], best: str, size: int) -> tuple[list[int], list[int]]:
    """The `size` best photographs by a figure (N,), best first, and the `size` worst, worst first; at most half each.

    `best` says which are, those with the "low" or the "high" values; what is no number is worst.
    """
    ranked: list[int] = np.argsort(-values if best == "high" else values, kind="stable").tolist()
    size = min(size, max(1, len(ranked) // 2))
    return ranked[:size], ranked[::-1][:size]


def write_gallery(folder: Path, predictor: Predictor, loader: Loader) -> None:
    """Writes each version of all that `loader` yields, in its order, of the very pixels that are scored."""
    folder.mkdir()
    rank = 0
    for batch, ab in predictions(predictor, loader):
        for versions, index in zip(triptychs(batch, ab).swapaxes(0, 1), batch.index.tolist(), strict=True):
            rank += 1
            for version, pixels in zip(VERSIONS, versions, strict=True):
                Image.fromarray(pixels).save(folder / picture_name(rank, loader.data.sample(index), version))


def picture_name(rank: int, sample: Sample, version: str) -> str:
    """<rank>_<key>_{grey,pred,real}.png, where the rank counts from 1; keys from elsewhere can hold slashes."""
    return f"{rank:03d}_{sample.key.replace('/', '_')}_{version}.png"
