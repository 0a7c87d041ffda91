"""Class rebalancing of Zhang et al. (ECCV 2016), section 2.2: rare colours count more, and grey ones less."""

# Shapes: B samples, S pixels, Q = 313 bins. ab in Lab units.

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .quantization import ab_bins

GREY = 5.0  # Lab units: NonGrayMaskLayer of the released code's caffe_traininglayers.py


def rebalancing_weights(prior: Tensor | NDArray[np.float64], lam: float = 0.5) -> Tensor:
    """Returns each bin's weight, float32 (313,): w ~ 1 / ((1 - lam) prior + lam / n), with E[w] = 1 under the prior.

    Eq. 4 of the paper. `prior` (313,) is the share of each bin. The uniform term is spread over the n bins that occur,
    as in the released code's PriorFactor. Bins that never occur would get an infinite weight; they get the largest
    weight of the others.
    """
    prior = torch.as_tensor(prior).double()
    prior = prior / prior.sum()
    occurs = prior > 0
    uniform = occurs / occurs.sum()
    weight = torch.where(occurs, 1 / ((1 - lam) * prior + lam * uniform), 0)
    weight = torch.where(occurs, weight, weight.max())
    return (weight / (prior * weight).sum()).float()


def load_prior(path: Path, name: str = "loss.prior") -> list[float]:
    """Returns the share of each bin from a shard set, its manifest.json, or a .npy of 313 numbers.

    Raises ValueError, which names the setting `name`, for other files. Pickled objects are not loaded.
    """
    try:
        path = path / "manifest.json" if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError
        if path.suffix == ".json":
            prior = json.loads(path.read_bytes())["ab_histogram"]
        else:
            prior = np.load(path, mmap_mode="r", allow_pickle=False)[:1000].tolist()  # a header allocates nothing
    except Exception as error:  # NumPy raises nearly every type for a header that is altered
        raise ValueError(
            f"{name}={path} cannot be read ({type(error).__name__}): name a shard set, or a .npy of 313 numbers"
        ) from None
    return check_prior(prior, f"{name}={path}")


def check_prior(prior: Sequence[float], name: str = "loss.prior") -> list[float]:
    """Returns the prior. Raises ValueError, which names the setting `name`, if it is not a distribution of the bins."""
    if not isinstance(prior, list) or not all(isinstance(share, int | float) for share in prior):
        raise ValueError(f"{name} is not a list of 313 numbers, the share of each ab bin")
    if len(prior) != len(ab_bins()):
        raise ValueError(f"{name} has {len(prior)} numbers in place of 313, the share of each ab bin")
    if not all(0 <= share < 1e300 for share in prior) or not sum(prior) > 0:
        raise ValueError(
            f"{name} is not a distribution: its 313 numbers must be finite, not negative, and not all zero"
        )
    return prior


def is_colorful(ab: Tensor) -> Tensor:
    """Returns (B,) of ab (B, 2, S, S): True where any value exceeds 5 in absolute value."""
    return ab.abs().amax(dim=(1, 2, 3)) > GREY
