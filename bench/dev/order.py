"""Measures shuffled reads by block size, and how well blocks mix: python -m photochrom.bench.dev.order SHARDS

The set is dropped from the page cache before each measurement.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ...pipelines import ShardSet
from ...pipelines.loading import order
from ..common.cold_read import cold_seconds
from ..common.results import Results, make_results, run_benchmark, shares_table
from ..common.timing import summarize


@dataclass(frozen=True, kw_only=True)
class OrderOptions:
    """Measures reading in shuffled order by shuffle_block_size.

    Args:
        data: Shard set to read; larger than some GB, or the disk's cache is measured.
        batch_size: Photographs in a batch.
        blocks: Block sizes to compare.
        batches: Batches to read in each measurement.
        rounds: Measurements of each block size.
        out: JSON file for the results.
    """

    data: Path
    batch_size: int = 224
    blocks: list[int] = field(default_factory=lambda: [1, 16, 64, 256])
    batches: int = 40
    rounds: int = 3
    out: Path | None = None


def main(argv: list[str]) -> int:
    table = shares_table("block", "ms per image", "of block 1")
    return run_benchmark(
        argv, OrderOptions, measure, prog="python -m photochrom.bench.dev.order", table=table, positional=("data",)
    )


def measure(options: OrderOptions) -> Results:
    """Returns the milliseconds per image to read from the disk, by block; each round has another order."""
    data = ShardSet.open(options.data)
    times: dict[str, list[float]] = {}
    for seed in range(options.rounds):
        for block in options.blocks:
            times.setdefault(str(block), []).append(
                cold_seconds(data, options.batch_size, options.batches, block, seed)
            )
    rows = summarize(times, label="block", whole=lambda medians: next(iter(medians.values())))
    for row, block in zip(rows, options.blocks, strict=True):
        row["batch_overlap"] = batch_overlap(data.num_samples, options.batch_size, block)
    overlaps = ", ".join(f"{row['batch_overlap']:.2f} at {row['block']}" for row in rows)
    verdict = f"pairs of a batch that shared a batch in the epoch before, relative to chance: {overlaps}"
    return make_results(options, torch.device("cpu"), rows, verdict)


def batch_overlap(num_samples: int, batch_size: int, block: int, seed: int = 0) -> float:
    """Returns how often two samples of a batch shared a batch in the epoch before, relative to chance."""
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
    """Returns the number of pairs of equal numbers, without those of -1."""
    counts = np.unique(batch[batch >= 0], return_counts=True)[1]
    return float((counts * (counts - 1) / 2).sum())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
