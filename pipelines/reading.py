"""The stored bytes of any photographs of a shard set, in any order: memory maps of local tars."""

import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .shards import ShardSet

Bytes = NDArray[np.uint8]

_GAP = 1 << 16  # what lies this close together is read ahead as one


class Reader:
    """Reads from the page cache, without a copy; what is announced is brought there in the meantime."""

    def __init__(self, data: ShardSet) -> None:
        self._data = data
        self._maps: dict[int, mmap.mmap] = {}

    def announce(self, index: NDArray[np.int64]) -> None:
        """Lets the system fetch these samples from the disk while other things are done."""
        if not hasattr(mmap, "MADV_WILLNEED"):  # a Windows without it
            return
        for shard, start, stop in self._ranges(index):
            start -= start % mmap.PAGESIZE
            self._map(shard).madvise(mmap.MADV_WILLNEED, start, stop - start)

    def read(self, index: NDArray[np.int64]) -> list[Bytes]:
        """The stored pictures, one array (bytes,) each, read only."""
        shards, places = self._data.shard_of(index).tolist(), self._data.places[index].tolist()
        return [
            np.frombuffer(self._map(shard), dtype=np.uint8, count=size, offset=offset)
            for shard, (offset, size) in zip(shards, places, strict=True)
        ]

    def _ranges(self, index: NDArray[np.int64]) -> list[tuple[int, int, int]]:
        """Shard, first byte and byte behind the last of what lies together."""
        index = np.sort(index)
        shard, (start, size) = self._data.shard_of(index), self._data.places[index].T
        cuts = np.flatnonzero((np.diff(shard) != 0) | (start[1:] - (start + size)[:-1] > _GAP))
        firsts, lasts = np.append(0, cuts + 1), np.append(cuts, len(index) - 1)
        return list(zip(shard[firsts].tolist(), start[firsts].tolist(), (start + size)[lasts].tolist(), strict=True))

    def _map(self, shard: int) -> mmap.mmap:
        if shard not in self._maps:
            with open(self._path(shard), "rb") as file:
                self._maps[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[shard]

    def _path(self, shard: int) -> Path:
        return self._data.root / f"{self._data.shards[shard].name}.tar"


def planes_of(stored: Bytes, size: NDArray[np.int64]) -> Bytes:
    """The planes (3, H, W) of stored Lab, `size` being height and width. Raises ValueError."""
    height, width = size.tolist()
    if stored.size != 3 * height * width:
        raise ValueError(f"{stored.size:,} bytes of Lab where {width}x{height} pixels have {3 * height * width:,}")
    return stored.reshape(3, height, width)
