"""The samples of each batch: pure functions of (number of samples, batch size, seed, position).

Training reads one endless stream: epoch 0 in a random order, then epoch 1 in another, and so on. Global batch k is
the stream's positions k * batch_size to (k + 1) * batch_size. So nothing is dropped at an epoch's end, a batch may
span two epochs, and sets smaller than a batch work. Evaluation reads 0 .. n - 1 once; its last batch may be shorter.

Each rank takes its share of every global batch. The samples of a global batch do not depend on the number of ranks, so
a run can be resumed on another number of ranks.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .hashing import permutation, random_bits

Indices = NDArray[np.int64]

_GROUP = 128  # blocks whose samples are shuffled together
_BLOCKS, _SAMPLES = range(2)  # one number per use of randomness


@lru_cache(maxsize=4)
def epoch_order(num_samples: int, seed: int, epoch: int, block_size: int = 1) -> Indices:
    """Returns the order (num_samples,) in which training visits all samples in one epoch.

    With `block_size` above 1, blocks of that many neighbours come in random order, and the samples of 128 blocks are
    shuffled together: that many places on the disk are read at a time.
    """
    if block_size == 1:
        return permutation(num_samples, seed, epoch)
    blocks = np.arange(num_samples) // block_size
    position = permutation(int(blocks[-1]) + 1, seed, epoch, _BLOCKS)  # of each block
    by_block = np.argsort(position[blocks], kind="stable")
    group = position[blocks[by_block]] // _GROUP
    return by_block[np.lexsort((random_bits(seed, epoch, by_block, _SAMPLES), group))]


def training_batch(
    num_samples: int, batch_size: int, seed: int, number: int, block_size: int = 1
) -> tuple[Indices, Indices]:
    """Returns sample indices and their epochs, both (batch_size,), of the stream's global batch `number`."""
    position = np.arange(number * batch_size, (number + 1) * batch_size)
    epochs = position // num_samples
    index = np.concatenate(
        [
            epoch_order(num_samples, seed, int(epoch), block_size)[position[epochs == epoch] % num_samples]
            for epoch in np.unique(epochs)
        ]
    )
    return index, epochs


def evaluation_batch(num_samples: int, batch_size: int, number: int) -> Indices:
    """Returns the sample indices of batch `number` in storage order; the last batch may be shorter."""
    return np.arange(number * batch_size, min((number + 1) * batch_size, num_samples))


def first_batch_of_epoch(num_samples: int, batch_size: int, epoch: int) -> int:
    """Returns the number of the first training batch that begins in `epoch` (or later, if batches span epochs)."""
    return -(-epoch * num_samples // batch_size)


def share(size: int, number: int, total: int) -> slice:
    """Returns the `number`-th of `total` contiguous shares of `size` samples; sizes differ by at most one."""
    return slice(size * number // total, size * (number + 1) // total)


def by_storage(index: Indices, epochs: Indices, parts: int) -> Indices:
    """Returns the order that sorts each of `parts` equal parts of a share by sample, for longer reads.

    Each part keeps its samples, so BatchNorm's batches stay random draws.
    """
    part = (np.arange(1, len(index) + 1) * parts - 1) // max(1, len(index))  # as `share` splits them
    return np.lexsort((epochs, index, part))
