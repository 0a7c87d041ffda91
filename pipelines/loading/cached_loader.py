"""CachedLoader: what has been decoded once stays in memory; crops and mirroring still vary.

Nothing is ever thrown out: every sample comes once an epoch, so what would be evicted is as likely to be wanted as what
takes its place (MinIO, Mohan et al., VLDB 2021).
"""

from threading import Lock
from typing import Any, Literal, get_args

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from .batch_buffer import BatchBuffer, Pixels
from .torch_loader import TorchLoader

CacheOn = Literal["ram", "device"]

_SHARE = 0.5  # of the memory that is free at the beginning


class CachedLoader(TorchLoader):
    """TorchLoader that keeps decoded pictures in memory, as many as fit; the others are decoded in every epoch.

    Args:
        cache_gib: Memory for them in GiB (1024^3 bytes), of this process; by default half of what is free, and in RAM
            its share of that among `world_size`.
        cache_location: Which memory: the machine's, or that of `device`, where they are then cut and resized too.
    """

    def __init__(
        self, *args: Any, cache_gib: float | None = None, cache_location: CacheOn = "ram", **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if cache_location not in get_args(CacheOn):
            raise ValueError(f"cache_location={cache_location!r} is unknown; known are {', '.join(get_args(CacheOn))}")
        self._on_device = cache_location == "device"
        self._room = self._left = int(self._free() if cache_gib is None else cache_gib * 2**30)
        self._cache: dict[int, Pixels | Tensor] = {}
        self._lock = Lock()

    @property
    def share(self) -> float:
        """How many of the photographs will fit, 1 for all."""
        needed = 3 * int(self.data.sizes.prod(axis=1).sum())
        return min(1.0, self._room / needed)

    def _free(self) -> float:
        if self._on_device and self.device.type == "cuda":
            return _SHARE * torch.cuda.mem_get_info(self.device)[0]
        return _SHARE * psutil.virtual_memory().available / self.world_size

    def _blank(self, number: int) -> BatchBuffer:
        if self._on_device:
            return self.canvases.for_device(number)
        return super()._blank(number)

    def _wanted(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.array([i for i in index.tolist() if i not in self._cache], dtype=np.int64)

    def picture(self, index: int, stored: Any) -> Pixels | Tensor:
        if (kept := self._cache.get(index)) is not None:
            return kept
        picture: Pixels | Tensor = self._decoded(index, stored)
        if self._on_device:
            picture = torch.tensor(picture, device=self.device)
        elif self.data.store == "lab" and self.reader.in_memory:
            return picture
        with self._lock:
            if picture.nbytes <= self._left and index not in self._cache:
                self._left -= picture.nbytes
                self._cache[index] = picture
        return picture
