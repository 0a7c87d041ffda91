"""Which samples make up which batch: pure functions of (number of samples, batch size, seed, position).

Training reads one endless stream: epoch 0 in its random order, then epoch 1 in another, and so on. Global batch k is
the stream's positions k * batch_size to (k + 1) * batch_size, so nothing is dropped at an epoch's end (a batch may
straddle two epochs), and sets smaller than a batch work. Evaluation reads 0 .. n - 1 once; its last batch is shorter.

Each rank takes its share of every global batch. What a global batch holds never depends on the number of ranks, so a
run can be resumed on another number of them.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .hashing import permutation, random_bits

Indices = NDArray[np.int64]

_MIXED = 128  # blocks that are shuffled into one another
_BLOCKS, _WITHIN = range(2)  # one number per use of randomness


@lru_cache(maxsize=4)
def epoch_order(num_samples: int, seed: int, epoch: int, block: int = 1) -> Indices:
    """The order (num_samples,) in which training visits all samples in one epoch.

    With `block` above 1, blocks of so many neighbours come in random order, 128 of them shuffled into one another: that
    many places on the disk are read at a time.
    """
    if block == 1:
        return permutation(num_samples, seed, epoch)
    blocks = np.arange(num_samples) // block
    place = permutation(int(blocks[-1]) + 1, seed, epoch, _BLOCKS)  # of each block
    by_block = np.argsort(place[blocks], kind="stable")
    group = place[blocks[by_block]] // _MIXED
    return by_block[np.lexsort((random_bits(seed, epoch, by_block, _WITHIN), group))]


def training_batch(
    num_samples: int, batch_size: int, seed: int, number: int, block: int = 1
) -> tuple[Indices, Indices]:
    """Sample indices and their epochs, both (batch_size,), of the global batch `number` of the endless stream."""
    position = np.arange(number * batch_size, (number + 1) * batch_size)
    epochs = position // num_samples
    index = np.concatenate(
        [
            epoch_order(num_samples, seed, int(epoch), block)[position[epochs == epoch] % num_samples]
            for epoch in np.unique(epochs)
        ]
    )
    return index, epochs


def evaluation_batch(num_samples: int, batch_size: int, number: int) -> Indices:
    """Sample indices of the batch `number` of the one pass in storage order; the last batch may be shorter."""
    return np.arange(number * batch_size, min((number + 1) * batch_size, num_samples))


def first_batch_of_epoch(num_samples: int, batch_size: int, epoch: int) -> int:
    """The number of the first global training batch that begins in `epoch` (or later, when batches skip epochs)."""
    return -(-epoch * num_samples // batch_size)


def share(size: int, number: int, total: int) -> slice:
    """The `number`-th of `total` shares of `size` samples: contiguous, sizes differing by at most one."""
    return slice(size * number // total, size * (number + 1) // total)


def by_storage(index: Indices, epochs: Indices, parts: int) -> Indices:
    """The order that sorts each of `parts` equal parts of a share by sample.

    Reads become longer runs. Each part keeps its samples: what BatchNorm sees together stays a random draw.
    """
    part = (np.arange(1, len(index) + 1) * parts - 1) // max(1, len(index))  # as `share` cuts them
    return np.lexsort((epochs, index, part))
