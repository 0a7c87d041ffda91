"""What reading in blocks saves, and what it costs the mixing: python -m photochrom.bench.dev.order SHARDS

The page cache is emptied of the set before each measurement, so that all comes from the disk.
"""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...pipelines import ShardSet
from ...pipelines.loading import order
from ...pipelines.loading.reader import LocalReader
from ..common.results import figures, run, shares
from ..common.timing import spread

_AHEAD = 2  # batches that are announced before they are read, as loaders do


@dataclass(frozen=True, kw_only=True)
class OrderConfig:
    """Measures reading in shuffled order, by size of the blocks that lie together.

    Args:
        data: Shard set to read; larger than some GB, or the disk's own memory answers.
        batch_size: Photographs in a batch.
        blocks: Sizes of blocks to compare.
        batches: How many to read of each.
        rounds: How often.
        out: File for the figures as JSON.
    """

    data: Path
    batch_size: int = 224
    blocks: tuple[int, ...] = (1, 16, 64, 256)
    batches: int = 40
    rounds: int = 3
    out: Path | None = None


def main(argv: list[str]) -> int:
    show = shares("block", "ms per image", "of block 1")
    return run(argv, OrderConfig, measure, prog="python -m photochrom.bench.dev.order", show=show, positional=("data",))


def measure(config: OrderConfig) -> dict[str, Any]:
    """Milliseconds per image to read from a cold disk, by block; the last round's order differs from the first's."""
    data = ShardSet.open(config.data)
    times: dict[str, list[float]] = {}
    for seed in range(config.rounds):
        for block in config.blocks:
            times.setdefault(str(block), []).append(cold_seconds(data, config.batch_size, config.batches, block, seed))
    rows = spread(times, label="block", whole=lambda medians: next(iter(medians.values())))
    for row, block in zip(rows, config.blocks, strict=True):
        row["batch_overlap"] = batch_overlap(data.num_samples, config.batch_size, block)
    met = ", ".join(f"{row['batch_overlap']:.2f} at {row['block']}" for row in rows)
    verdict = f"pairs of a batch that shared one in the epoch before, over those that would by chance: {met}"
    return figures(config, torch.device("cpu"), rows, verdict)


def batch_overlap(num_samples: int, batch_size: int, block: int, seed: int = 0) -> float:
    """How often two samples that share a batch have shared one in the epoch before, over how often by chance."""
    before, now = (
        order.epoch_order(num_samples, seed, epoch, block)[: num_samples - num_samples % batch_size]
        for epoch in range(2)
    )
    batch = np.full(num_samples, -1)
    batch[before] = np.arange(len(before)) // batch_size
    pairs = sum(_pairs(batch[share]) for share in now.reshape(-1, batch_size))
    chance = len(now) * (batch_size - 1) / 2 * (batch_size - 1) / (num_samples - 1)
    return pairs / chance


def _pairs(batch: NDArray[np.int64]) -> float:
    """Pairs of equal numbers."""
    counts = np.unique(batch[batch >= 0], return_counts=True)[1]
    return float((counts * (counts - 1) / 2).sum())


def cold_seconds(data: ShardSet, batch_size: int, num_batches: int, block: int, seed: int) -> float:
    """Seconds per photograph to read so many training batches from an empty page cache; nobody else may map the set."""
    _forget(data)
    reader = LocalReader(data)
    batches = [
        np.sort(order.training_batch(data.num_samples, batch_size, seed, number, block)[0])
        for number in range(num_batches)
    ]
    started = time.perf_counter()
    for number, batch in enumerate(batches):
        for ahead in batches[number + _AHEAD : number + _AHEAD + 1]:
            reader.prefetch(ahead)
        for stored in reader.read(batch):
            stored[::4096].max()  # touches every page
    return (time.perf_counter() - started) / batch_size / num_batches


def _forget(data: ShardSet) -> None:
    """Lets the system drop the set's pages, which it can once nobody maps them."""
    for shard in data.shards:
        with open(str(data.root / f"{shard.name}.tar"), "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
