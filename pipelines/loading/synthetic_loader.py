"""SyntheticLoader: batches that are on the device already, to measure the network without waiting for data."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..imaging.color import rgb_to_lab
from ..shards import Store
from .base import BatchPlan, Loader
from .batch import LabBatch

_CPU = torch.device("cpu")


class SyntheticLoader(Loader):
    """Loader that decodes nothing: one batch of random colours, generated once, with the indices of real batches."""

    def _index_to_read(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        return index[:0]

    def _load(self, plans: Iterator[BatchPlan]) -> Iterator[LabBatch]:
        L, ab = torch.empty(0), torch.empty(0)
        for plan in plans:
            if len(L) < len(plan):
                L, ab = random_lab(len(plan), self.size, seed=self.seed, device=self.device, store=self.data.store)
            yield LabBatch(L=L[: len(plan)], ab=ab[: len(plan)], index=torch.from_numpy(plan.index))


def random_lab(
    batch_size: int, size: int, *, seed: int, device: torch.device = _CPU, store: Store = "jpeg"
) -> tuple[Tensor, Tensor]:
    """Returns L (B, 1, S, S) and ab (B, 2, S, S) of squares of 8 pixels in random sRGB colours, on the device.

    Squares are as smooth as photographs; noise would average to grey on a coarser grid. Strides are those of the other
    loaders' batches, or torch.compile would compile twice: on a GPU, L and ab are views of one tensor, unless the set
    stores Lab; on a CPU, each is contiguous.
    """
    side = -(-size // 8)
    colours = torch.rand(batch_size, 3, side, side, generator=torch.Generator().manual_seed(seed))
    squares = colours.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    lab = torch.cat(rgb_to_lab(squares[..., :size, :size]), dim=1).to(device)
    L, ab = lab[:, :1], lab[:, 1:]
    return (L, ab) if device.type != "cpu" and store == "jpeg" else (L.contiguous(), ab.contiguous())
