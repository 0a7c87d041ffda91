"""Galleries of the best and the worst photographs of a set, as one predictor colorizes them."""

# Shapes: N photographs.

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...pipelines import Sample
from ...pipelines.files import bounded_name
from ...pipelines.loading.base import Loader
from ..training.preview import triptychs
from .predictors import Predictor
from .score import predictions

VERSIONS = ("grey", "pred", "real")


def best_and_worst(values: NDArray[np.float32], best: str, size: int) -> tuple[list[int], list[int]]:
    """Returns the indices of the `size` best values (N,), best first, and of the `size` worst, worst first.

    `best` is "low" or "high". NaN is worst. Each list holds at most half of the photographs.
    """
    ranked: list[int] = np.argsort(-values if best == "high" else values, kind="stable").tolist()
    size = min(size, max(1, len(ranked) // 2))
    return ranked[:size], ranked[::-1][:size]


def write_gallery(folder: Path, predictor: Predictor, loader: Loader) -> None:
    """Writes each version of every photograph that `loader` yields, in its order, from the pixels that are scored."""
    folder.mkdir()
    rank = 0
    for batch, ab in predictions(predictor, loader):
        for versions, index in zip(triptychs(batch, ab).swapaxes(0, 1), batch.index.tolist(), strict=True):
            rank += 1
            for version, pixels in zip(VERSIONS, versions, strict=True):
                Image.fromarray(pixels).save(folder / image_name(rank, loader.data.sample(index), version))


def image_name(rank: int, sample: Sample, version: str) -> str:
    """Returns <rank>_<key>_{grey,pred,real}.png. Ranks count from 1; other tools' keys can be long or hold slashes."""
    return f"{rank:03d}_{bounded_name(sample.key.replace('/', '_'))}_{version}.png"
