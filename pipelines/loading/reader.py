"""The stored bytes of any photographs of a shard set, in any order: memory maps of tars, or ranges of remote ones."""

import mmap
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..remote import RemotePath
from ..shards import ShardSet

Bytes = NDArray[np.uint8]

_GAP = 1 << 16  # what lies this close together is read ahead as one
_REQUESTS = 32  # tars of which a server is asked at a time
_MAPS = 128  # tars that are open at a time, of the 256 or 1,024 files that systems allow
_HELD = 16  # announcements that are kept for a reader that may have gone elsewhere


class Reader(Protocol):
    """Hands out stored pictures by their samples' numbers."""

    read_ahead: int  # batches to prefetch before they are read
    in_memory: bool  # whether what is read is where the system keeps it anyway

    def prefetch(self, index: NDArray[np.int64]) -> None:
        """Lets these samples come while other things are done."""

    def read(self, index: NDArray[np.int64]) -> list[Bytes]:
        """The stored pictures, one array (bytes,) each, read only."""

    def close(self) -> None:
        """Lets go of what was announced and not read."""


def open_reader(data: ShardSet) -> Reader:
    """The reader of a shard set, wherever it lies."""
    return RemoteReader(data) if isinstance(data.root, RemotePath) else LocalReader(data)


class LocalReader:
    """Reads from the page cache, without a copy; what is announced is brought there in the meantime."""

    read_ahead = 2
    in_memory = True

    def __init__(self, data: ShardSet) -> None:
        self._data = data
        self._maps: OrderedDict[int, mmap.mmap] = OrderedDict()  # the one used last at the end

    def prefetch(self, index: NDArray[np.int64]) -> None:
        if not hasattr(mmap, "MADV_WILLNEED"):  # a Windows without it
            return
        for shard, start, stop in self._ranges(index):
            start -= start % mmap.PAGESIZE
            self._map(shard).madvise(mmap.MADV_WILLNEED, start, stop - start)

    def read(self, index: NDArray[np.int64]) -> list[Bytes]:
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

    def close(self) -> None:
        self._maps.clear()

    def _map(self, shard: int) -> mmap.mmap:
        mapped = self._maps.get(shard)
        if mapped is None:
            try:
                with open(self._tar(shard), "rb") as file:
                    mapped = self._maps[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except FileNotFoundError:
                raise ValueError(
                    f"{self._tar(shard)} was removed since it was opened: restore it or pack again"
                ) from None
            if len(self._maps) > _MAPS:  # arrays keep the map that they lie in
                self._maps.popitem(last=False)
        self._maps.move_to_end(shard)
        if mapped.size() < self._data.shards[shard].bytes:  # or else the system would end the process, without a word
            raise ValueError(
                f"{self._tar(shard)} was cut to {mapped.size()} bytes since it was opened: restore it or pack again"
            )
        return mapped

    def _tar(self, shard: int) -> str:
        return str(self._data.root / f"{self._data.shards[shard].name}.tar")


class RemoteReader:
    """Reads by ranges. What is announced is asked for at once, a request for what lies together."""

    read_ahead = 6
    in_memory = False

    def __init__(self, data: ShardSet) -> None:
        self._data = data
        self._pool = ThreadPoolExecutor(_REQUESTS, thread_name_prefix="photochrom-reading")
        self._largest = 0  # announcement
        self._coming: dict[int, tuple[Future[list[Any]], int]] = {}  # of each sample, and its number among the ranges

    def prefetch(self, index: NDArray[np.int64]) -> None:
        index = np.array([i for i in index.tolist() if i not in self._coming], dtype=np.int64)
        shards = self._data.shard_of(index)
        for shard in np.unique(shards).tolist():
            there = index[shards == shard]
            starts, lengths = self._data.places[there].T.tolist()
            tar = self._data.tar(int(there[0]))
            future = self._pool.submit(tar.read_ranges, starts, lengths, gap=_GAP)  # type: ignore[union-attr]
            self._coming |= {i: (future, number) for number, i in enumerate(there.tolist())}
        self._largest = max(self._largest, len(index))
        while len(self._coming) > _HELD * self._largest:
            self._coming.pop(next(iter(self._coming)))

    def read(self, index: NDArray[np.int64]) -> list[Bytes]:
        places = {i: self._coming.pop(i) for i in set(index.tolist()) if i in self._coming}
        if missing := [i for i in np.unique(index).tolist() if i not in places]:
            self.prefetch(np.array(missing))
            places |= {i: self._coming.pop(i) for i in missing}
        return [
            np.frombuffer(future.result()[number], dtype=np.uint8)
            for future, number in (places[i] for i in index.tolist())
        ]

    def close(self) -> None:
        for future, _ in self._coming.values():
            future.cancel()
        self._coming.clear()


def planes_of(stored: Bytes, size: NDArray[np.int64]) -> Bytes:
    """The planes (3, H, W) of stored Lab, `size` being height and width. Raises ValueError."""
    height, width = size.tolist()
    if stored.size != 3 * height * width:
        raise ValueError(f"{stored.size:,} bytes of Lab where {width}x{height} pixels have {3 * height * width:,}")
    return stored.reshape(3, height, width)
