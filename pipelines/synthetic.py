"""SyntheticLoader: batches that are on the device already, for measuring what a network could do without waiting."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from .batch import LabBatch
from .color import rgb_to_lab
from .loader import BatchPlan, Loader


class SyntheticLoader(Loader):
    """Loader that decodes nothing: one batch of random colours, made once, under the numbers that others yield."""

    def _wanted(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        return index[:0]

    def _batches(self, plans: Iterator[BatchPlan]) -> Iterator[LabBatch]:
        generator = torch.Generator().manual_seed(self.seed)
        L, ab = torch.empty(0), torch.empty(0)
        for plan in plans:
            if len(L) < len(plan):
                # Squares of 8 pixels, as smooth as photographs are: noise would have a middle grey on any coarser grid.
                colours = torch.rand(len(plan), 3, self.size // 8 + 1, self.size // 8 + 1, generator=generator)
                squares = colours.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
                L, ab = rgb_to_lab(squares[..., : self.size, : self.size].to(self.device))
            yield LabBatch(L=L[: len(plan)], ab=ab[: len(plan)], index=torch.from_numpy(plan.index))
