"""Measures reading from an empty page cache."""

import os
import time

import numpy as np

from ...pipelines import ShardSet
from ...pipelines.loading import order
from ...pipelines.loading.reader import LocalReader

_PREFETCH = 2  # batches, as loaders do


def cold_seconds(data: ShardSet, batch_size: int, num_batches: int, block: int, seed: int) -> float:
    """Returns the seconds per photograph to read batches from an empty page cache; the set must not be mapped."""
    _drop_from_page_cache(data)
    reader = LocalReader(data)
    mixture = order.Mixture(data.set_sizes, data.draws)
    batches = [
        np.sort(order.training_batch(mixture, batch_size, seed, number, block)[0]) for number in range(num_batches)
    ]
    started = time.perf_counter()
    for number, batch in enumerate(batches):
        if number + _PREFETCH < len(batches):
            reader.prefetch(batches[number + _PREFETCH])
        for stored in reader.read(batch):
            stored[::4096].max()  # touches every page
    return (time.perf_counter() - started) / batch_size / num_batches


def _drop_from_page_cache(data: ShardSet) -> None:
    """Asks the system to drop the set's pages; it keeps pages that are mapped."""
    for tar in data.tars:
        with open(str(tar), "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
