"""CachedLoader: what has been decoded once stays in memory; crops and mirroring still vary.

Nothing is ever thrown out: every sample comes once an epoch, so what would be evicted is as likely to be wanted as what
takes its place (MinIO, Mohan et al., VLDB 2021).
"""

from threading import Lock
from typing import Any

import psutil

from .canvas import Pixels
from .reading import Bytes
from .torchloader import TorchLoader

_SHARE = 0.5  # of the memory that is free at the beginning


class CachedLoader(TorchLoader):
    """TorchLoader that keeps decoded pictures in memory, as many as fit; the others are decoded in every epoch.

    Args:
        cache_gib: Memory for them in GiB (1024^3 bytes), of this process; by default half of what is free.
    """

    def __init__(self, *args: Any, cache_gib: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        free = psutil.virtual_memory().available
        self._left = int(free * _SHARE if cache_gib is None else cache_gib * 2**30)
        self._cache: dict[int, Pixels] = {}
        self._lock = Lock()

    def _picture(self, index: int, stored: Bytes) -> Pixels:
        picture = self._cache.get(index)
        if picture is None and self.data.store == "lab":  # which lies in memory as it is
            return super()._picture(index, stored)
        if picture is None:
            picture = super()._picture(index, stored)
            with self._lock:
                if picture.nbytes <= self._left and index not in self._cache:
                    self._left -= picture.nbytes
                    self._cache[index] = picture
        return picture
