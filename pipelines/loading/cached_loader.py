"""CachedLoader: keeps decoded images in memory; crops and flips still vary.

Nothing is evicted: every sample comes once an epoch, so the evicted image would be as likely to be needed as the one
that replaces it (MinIO, Mohan et al., VLDB 2021).
"""

from dataclasses import dataclass
from os import PathLike
from threading import Lock
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..imaging.color import copy_to_device
from ..shards import ShardSet
from ..system import available_memory
from .batch_buffer import BatchBuffer, DeviceImageBuffer, Pixels
from .torch_loader import TorchLoader

CacheLocation = Literal["ram", "device"]

_DEFAULT_SHARE = 0.5  # of the memory that is free at the start


@dataclass(eq=False, repr=False)
class CachedLoader(TorchLoader):
    """TorchLoader that keeps as many decoded images as fit in memory; the others are decoded in every epoch.

    Args:
        cache_gib: Memory of this process for the cache in GiB (1024^3 bytes); by default half of the free memory, and
            in RAM this process's share of that half among `world_size`.
        cache_location: ram, or device to keep images on `device`, where they are then cropped and resized too.

    All other arguments are those of Loader.
    """

    cache_gib: float | None = None
    cache_location: CacheLocation = "ram"

    def __post_init__(self, source: ShardSet | str | PathLike[str]) -> None:
        super().__post_init__(source)
        if self.cache_location not in get_args(CacheLocation):
            known = ", ".join(get_args(CacheLocation))
            raise ValueError(f"cache_location={self.cache_location!r} is unknown; known are {known}")
        self._on_device = self.cache_location == "device"
        self._capacity = int(self._default_capacity() if self.cache_gib is None else self.cache_gib * 2**30)
        self._free = self._capacity
        self._cache: dict[int, Pixels | Tensor] = {}
        self._lock = Lock()

    @property
    def share(self) -> float:
        """The share of the photographs that fit in the cache, 1 for all."""
        needed = 3 * int(self.data.sizes.prod(axis=1).sum())
        return min(1.0, self._capacity / needed)

    def _default_capacity(self) -> float:
        if self._on_device and self.device.type == "cuda":
            return _DEFAULT_SHARE * torch.cuda.mem_get_info(self.device)[0]
        return _DEFAULT_SHARE * available_memory() / self.world_size

    def new_buffer(self, batch_size: int) -> BatchBuffer:
        if self._on_device:
            return DeviceImageBuffer(batch_size, self.size, self.data.store, self._to_lab)
        return super().new_buffer(batch_size)

    def _index_to_read(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.array([i for i in index.tolist() if i not in self._cache], dtype=np.int64)

    def image(self, index: int, stored: Any) -> Pixels | Tensor:
        if (cached := self._cache.get(index)) is not None:
            return cached
        decoded = self._decode(index, stored)
        image = copy_to_device(decoded, self.device) if self._on_device else decoded
        if not self._on_device and self.data.store == "lab" and self.reader.in_memory:
            return image
        with self._lock:
            if image.nbytes <= self._free and index not in self._cache:
                self._free -= image.nbytes
                self._cache[index] = image
        return image
