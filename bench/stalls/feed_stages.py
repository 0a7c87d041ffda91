"""The same training step, fed from ever farther away: from the device, from memory, decoded or not, from the disk.

Each level adds one thing to those before it; what a photograph takes longer there is that thing's.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...engine.loaders import training_loader
from ...engine.training.loop import Run, endless
from ...pipelines import LabBatch
from ...pipelines.loading.base import Loader
from ...pipelines.loading.reader import Bytes, Reader
from ...pipelines.loading.synthetic_loader import random_lab

NETWORK, TRANSFER, LAB, DECODE, STORAGE = "network", "transfer", "Lab", "decode", "storage"

_IN_MEMORY = 1 << 30  # bytes of decoded pictures that are replayed, at most
_BATCHES = 16  # of them, at most

Carry = Callable[[LabBatch], LabBatch]  # what brings a batch to the device


@dataclass(frozen=True, kw_only=True)
class FeedStage:
    """What it adds to those before it, and the endless batches from there."""

    adds: str
    batches: Iterator[LabBatch]
    close: Callable[[], None] = lambda: None


class MemoryReader:
    """Hands out stored pictures that were read at the beginning."""

    read_ahead = 0
    in_memory = True

    def __init__(self, reader: Reader, num_samples: int) -> None:
        self._stored = [np.array(stored) for stored in reader.read(np.arange(num_samples))]

    def prefetch(self, index: NDArray[np.int64]) -> None:
        """All is there."""

    def read(self, index: NDArray[np.int64]) -> list[Bytes]:
        return [self._stored[i] for i in index.tolist()]

    def close(self) -> None:
        """Nothing is open."""


def feed_stages(run: Run, carry: Carry | None = None) -> Iterator[FeedStage]:
    """The feed_stages of a run, nearest first. Where they are not on the device yet, `carry` brings batches there.

    By default that is what the loaders do, and on a CPU nothing. Pictures are replayed from memory, 16 batches of them.
    """
    yield _level(NETWORK, _loader(run, backend="synthetic"))
    if run.accelerator.device.type == "cuda" or carry:
        yield FeedStage(adds=TRANSFER, batches=_from_host(run, carry))
    cached = _loader(run, backend="cached", cache_gib=2 * _IN_MEMORY / 2**30, cache_location="ram")
    _limit(cached)
    for _ in cached:  # all of them are decoded
        pass
    yield _level(LAB, cached, carry)
    keeps = run.config.loader.backend in ("cached", "synthetic")
    decoding = _loader(run, backend="auto") if keeps else _loader(run)
    decoding.reader = MemoryReader(decoding.reader, _limit(decoding))
    yield _level(DECODE, decoding, carry)
    yield _level(STORAGE, _loader(run), carry)


def _loader(run: Run, **settings: Any) -> Loader:
    """The loader that the run trains on, but for some settings of it."""
    config = replace(run.config, loader=replace(run.config.loader, **settings))
    return training_loader(config, run.accelerator)


def _level(adds: str, loader: Loader, carry: Carry | None = None) -> FeedStage:
    batches = endless(loader)
    return FeedStage(adds=adds, batches=map(carry, batches) if carry else batches, close=loader.close)


def _limit(loader: Loader) -> int:
    """Lets a loader read no more samples than can be kept in memory; returns how many."""
    of_one = 3 * float(loader.data.sizes.prod(axis=1).mean())
    kept = min(_BATCHES * loader.batch_size, int(_IN_MEMORY / of_one))
    loader.num_samples = min(loader.num_samples, max(1, kept))
    return loader.num_samples


def _from_host(run: Run, carry: Carry | None) -> Iterator[LabBatch]:
    """One batch, carried from the host's memory again and again: by default bytes travel, as loaders have it."""
    device, size, number = run.accelerator.device, run.config.data.size, run.config.train.batch_size
    L, ab = random_lab(number, size, seed=0)
    batch = LabBatch(L=L, ab=ab, index=torch.arange(number))
    if carry:
        while True:
            yield carry(batch)
    there = LabBatch(L=L.to(device), ab=ab.to(device), index=batch.index)
    pixels = torch.empty(number, size, size, 3, dtype=torch.uint8, pin_memory=device.type == "cuda")
    while True:
        pixels.to(device, non_blocking=True)
        yield there
