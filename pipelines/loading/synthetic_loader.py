"""SyntheticLoader: batches that are on the device already, for measuring what a network could do without waiting."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..imaging.color import rgb_to_lab
from .base import BatchPlan, Loader
from .batch import LabBatch


class SyntheticLoader(Loader):
    """Loader that decodes nothing: one batch of random colours, made once, under the numbers that others yield."""

    def _wanted(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        return index[:0]

    def _batches(self, plans: Iterator[BatchPlan]) -> Iterator[LabBatch]:
        L, ab = torch.empty(0), torch.empty(0)
        for plan in plans:
            if len(L) < len(plan):
                L, ab = (channels.to(self.device) for channels in colourful(len(plan), self.size, seed=self.seed))
            yield LabBatch(L=L[: len(plan)], ab=ab[: len(plan)], index=torch.from_numpy(plan.index))


def colourful(number: int, size: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """L (B, 1, S, S) and ab (B, 2, S, S) of squares of 8 pixels in random colours of sRGB.

    They are as smooth as photographs: noise would have a middle grey on any coarser grid.
    """
    side = -(-size // 8)
    colours = torch.rand(number, 3, side, side, generator=torch.Generator().manual_seed(seed))
    squares = colours.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    return rgb_to_lab(squares[..., :size, :size])
