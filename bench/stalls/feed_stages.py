"""The stages of a differential analysis: one training step, fed from the device, from memory and from the disk.

Each stage adds one resource to the stages before it. The time that a photograph takes longer is that resource's.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...engine.loaders import training_loader
from ...engine.training.loop import Run, endless
from ...pipelines import LabBatch, ShardSet
from ...pipelines.imaging.color import rgb_to_lab
from ...pipelines.joined_shards import open_shards
from ...pipelines.loading.base import Loader
from ...pipelines.loading.batch_buffer import DeviceBatchBuffer
from ...pipelines.loading.reader import Bytes, Reader, open_reader
from ...pipelines.loading.synthetic_loader import random_lab

NETWORK, TRANSFER, LAB, DECODE, STORAGE = "network", "transfer", "Lab", "decode", "storage"

_MAX_MEMORY = 1 << 30  # bytes of decoded pictures that are replayed
_MAX_BATCHES = 16  # that are replayed

ToDevice = Callable[[LabBatch], LabBatch]


@dataclass(frozen=True, kw_only=True)
class FeedStage:
    """A resource that a stage adds to the stages before it, and endless batches that need all of them."""

    adds: str
    batches: Iterator[LabBatch]
    close: Callable[[], None] = lambda: None


class MemoryReader:
    """Reader that keeps the stored pictures of the first samples in memory."""

    read_ahead = 0
    in_memory = True

    def __init__(self, reader: Reader, num_samples: int) -> None:
        self._stored = [np.array(stored) for stored in reader.read(np.arange(num_samples))]

    def prefetch(self, index: NDArray[np.int64]) -> None:
        """Does nothing: all samples are in memory."""

    def read(self, index: NDArray[np.int64]) -> list[Bytes]:
        return [self._stored[i] for i in index.tolist()]

    def close(self) -> None:
        """Does nothing: no file is open."""


def feed_stages(run: Run, to_device: ToDevice | None = None) -> Iterator[FeedStage]:
    """Yields the stages of a run, nearest to the device first.

    Stages that replay pictures from memory replay at most 16 batches. `to_device` copies batches to the device in
    place of the loaders; without it there is no transfer stage on a CPU.
    """
    yield _stage(NETWORK, _loader(run, backend="synthetic"))
    if run.accelerator.device.type == "cuda" or to_device:
        yield FeedStage(adds=TRANSFER, batches=_host_batches(run, to_device))
    data = open_shards(run.config.data.train, run.config.data.weights)
    num_samples = _num_replayed(data, run.config.train.batch_size)
    cache = {"backend": "cached", "cache_gib": 2 * _MAX_MEMORY / 2**30, "cache_location": "ram"}
    cached = _loader(run, {"num_samples": num_samples}, **cache)
    for _ in cached:  # decodes the whole cache
        pass
    yield _stage(LAB, cached, to_device)
    reader = open_reader(data)
    memory = {"reader": MemoryReader(reader, num_samples), "num_samples": num_samples}
    reader.close()
    decodes_nothing = run.config.loader.backend in ("cached", "synthetic")
    yield _stage(DECODE, _loader(run, memory, **({"backend": "auto"} if decodes_nothing else {})), to_device)
    yield _stage(STORAGE, _loader(run), to_device)


def _loader(run: Run, arguments: dict[str, Any] | None = None, **settings: Any) -> Loader:
    """Returns the run's training loader with other `settings` of the section loader and more constructor arguments."""
    config = replace(run.config, loader=replace(run.config.loader, **settings))
    return training_loader(config, run.accelerator, **(arguments or {}))


def _stage(adds: str, loader: Loader, to_device: ToDevice | None = None) -> FeedStage:
    batches = endless(loader)
    return FeedStage(adds=adds, batches=map(to_device, batches) if to_device else batches, close=loader.close)


def _num_replayed(data: ShardSet, batch_size: int) -> int:
    """Returns how many samples are replayed from memory."""
    bytes_per_sample = 3 * float(data.sizes.prod(axis=1).mean())
    return min(data.num_samples, max(1, min(_MAX_BATCHES * batch_size, int(_MAX_MEMORY / bytes_per_sample))))


def _host_batches(run: Run, to_device: ToDevice | None) -> Iterator[LabBatch]:
    """Yields one batch again and again, copied from the host each time; by default as bytes, as loaders do."""
    device, size, batch_size = run.accelerator.device, run.config.data.size, run.config.train.batch_size
    store = run.loader.data.store
    L, ab = random_lab(batch_size, size, seed=0, device=torch.device("cpu") if to_device else device, store=store)
    batch = LabBatch(L=L, ab=ab, index=torch.arange(batch_size))
    buffer = DeviceBatchBuffer(batch_size, size, "jpeg", device, rgb_to_lab)
    while True:
        if to_device:
            yield to_device(batch)
        else:
            buffer.copy()
            yield batch
