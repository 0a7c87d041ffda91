"""Reads the stored bytes of a shard set's samples in any order: from memory maps, or by ranges from a server."""

import mmap
from collections import OrderedDict
from concurrent.futures import Future
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..remote import RemotePath
from ..shards import ShardSet
from ..threads import ThreadPool

Bytes = NDArray[np.uint8]

_MAX_GAP = 1 << 16  # bytes between samples that are read as one range
_MAX_REQUESTS = 32  # tars that are requested at the same time
_MAX_MAPS = 128  # tars that are open at the same time, of the 256 or 1,024 files that systems allow
_MAX_PREFETCHES = 16  # kept for samples that are never read


class Reader(Protocol):
    """Reads stored images by sample index."""

    read_ahead: int  # batches between prefetch and read
    in_memory: bool  # True if `read` returns memory that the system caches anyway

    def prefetch(self, index: NDArray[np.int64]) -> None:
        """Starts to read these samples in the background."""

    def read(self, index: NDArray[np.int64]) -> list[Bytes]:
        """Returns the stored images, each a read-only array (bytes,)."""

    def close(self) -> None:
        """Drops samples that were prefetched and not read."""


def open_reader(data: ShardSet) -> Reader:
    """Returns the reader of a local or remote shard set."""
    return RemoteReader(data) if isinstance(data.root, RemotePath) else LocalReader(data)


class LocalReader:
    """Reads from the page cache without a copy; prefetching brings samples there."""

    read_ahead = 2
    in_memory = True

    def __init__(self, data: ShardSet) -> None:
        self._data = data
        self._maps: OrderedDict[int, mmap.mmap] = OrderedDict()  # by shard, the last used one at the end

    def prefetch(self, index: NDArray[np.int64]) -> None:
        if not hasattr(mmap, "MADV_WILLNEED"):  # Windows
            return
        for shard, start, stop in self._ranges(index):
            start -= start % mmap.PAGESIZE
            self._map(shard).madvise(mmap.MADV_WILLNEED, start, stop - start)

    def read(self, index: NDArray[np.int64]) -> list[Bytes]:
        shards, ranges = self._data.shard_of(index).tolist(), self._data.byte_ranges[index].tolist()
        return [
            np.frombuffer(self._map(shard), dtype=np.uint8, count=size, offset=offset)
            for shard, (offset, size) in zip(shards, ranges, strict=True)
        ]

    def _ranges(self, index: NDArray[np.int64]) -> list[tuple[int, int, int]]:
        """Returns shard, start and stop in bytes of ranges that cover the samples."""
        index = np.sort(index)
        shard, (start, size) = self._data.shard_of(index), self._data.byte_ranges[index].T
        cuts = np.flatnonzero((np.diff(shard) != 0) | (start[1:] - (start + size)[:-1] > _MAX_GAP))
        firsts, lasts = np.append(0, cuts + 1), np.append(cuts, len(index) - 1)
        return list(zip(shard[firsts].tolist(), start[firsts].tolist(), (start + size)[lasts].tolist(), strict=True))

    def close(self) -> None:
        self._maps.clear()

    def _map(self, shard: int) -> mmap.mmap:
        mapped = self._maps.get(shard)
        if mapped is None:
            try:
                with open(str(self._data.tars[shard]), "rb") as file:
                    mapped = self._maps[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except FileNotFoundError:
                raise ValueError(
                    f"{self._data.tars[shard]} was removed since it was opened: restore it or pack again"
                ) from None
            if len(self._maps) > _MAX_MAPS:  # arrays keep their map alive
                self._maps.popitem(last=False)
        self._maps.move_to_end(shard)
        if mapped.size() < self._data.shards[shard].bytes:  # reading past the end would kill the process (SIGBUS)
            raise ValueError(
                f"{self._data.tars[shard]} was cut to {mapped.size()} bytes since it was opened: restore it or pack "
                "again"
            )
        return mapped


class RemoteReader:
    """Reads ranges of tars from a server. Prefetching requests them, with one request for samples that are close."""

    read_ahead = 6
    in_memory = False

    def __init__(self, data: ShardSet) -> None:
        self._data = data
        self._pool = ThreadPool(_MAX_REQUESTS)
        self._largest_prefetch = 0  # samples
        self._pending: dict[int, tuple[Future[list[Any]], int]] = {}  # by sample: a request, and its place in the reply

    def prefetch(self, index: NDArray[np.int64]) -> None:
        index = np.array([i for i in index.tolist() if i not in self._pending], dtype=np.int64)
        shards = self._data.shard_of(index)
        for shard in np.unique(shards).tolist():
            samples = index[shards == shard]
            starts, lengths = self._data.byte_ranges[samples].T.tolist()
            tar = self._data.tars[shard]
            future = self._pool.submit(tar.read_ranges, starts, lengths, gap=_MAX_GAP)
            self._pending |= {sample: (future, place) for place, sample in enumerate(samples.tolist())}
        self._largest_prefetch = max(self._largest_prefetch, len(index))
        while len(self._pending) > _MAX_PREFETCHES * self._largest_prefetch:
            self._pending.pop(next(iter(self._pending)))

    def read(self, index: NDArray[np.int64]) -> list[Bytes]:
        requests = {i: self._pending.pop(i) for i in set(index.tolist()) if i in self._pending}
        if missing := [i for i in np.unique(index).tolist() if i not in requests]:
            self.prefetch(np.array(missing))
            requests |= {i: self._pending.pop(i) for i in missing}
        return [
            np.frombuffer(future.result()[place], dtype=np.uint8)
            for future, place in (requests[i] for i in index.tolist())
        ]

    def close(self) -> None:
        for future, _ in self._pending.values():
            future.cancel()
        self._pending.clear()


def lab_planes(stored: Bytes, size: NDArray[np.int64]) -> Bytes:
    """Returns the planes (3, H, W) of stored Lab; `size` is height and width. Raises ValueError for other lengths."""
    height, width = size.tolist()
    if stored.size != 3 * height * width:
        raise ValueError(f"{stored.size:,} bytes of Lab where {width}x{height} pixels have {3 * height * width:,}")
    return stored.reshape(3, height, width)
