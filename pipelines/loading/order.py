"""The samples of each batch: pure functions of (number of samples, batch size, seed, position).

Training reads one endless stream: epoch 0 in a random order, then epoch 1 in another, and so on. Global batch k is
the stream's positions k * batch_size to (k + 1) * batch_size. So nothing is dropped at an epoch's end, a batch may
span two epochs, and sets smaller than a batch work. Evaluation reads 0 .. n - 1 once; its last batch may be shorter.

Of several sets, an epoch draws a fixed number of samples each. The sets take random turns, and each turn takes the next
sample of that set's own endless stream: all samples of a set are drawn equally often.

Each rank takes its share of every global batch. The samples of a global batch do not depend on the number of ranks, so
a run can be resumed on another number of ranks.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .hashing import permutation, random_bits

Indices = NDArray[np.int64]

_GROUP = 128  # blocks whose samples are shuffled together
_BLOCKS, _SAMPLES, _TURNS = range(3)  # one number per use of randomness


@dataclass(frozen=True)
class Mixture:
    """Sets to train on together: the number of samples in each, and how many of them an epoch draws."""

    sizes: tuple[int, ...]
    draws: tuple[int, ...]

    @classmethod
    def of(cls, num_samples: int) -> "Mixture":
        """Returns the mixture of one set: an epoch draws every sample once."""
        return cls((num_samples,), (num_samples,))

    @property
    def epoch_size(self) -> int:
        return sum(self.draws)


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


@lru_cache(maxsize=4)
def mixture_order(mixture: Mixture, seed: int, epoch: int, block_size: int = 1) -> tuple[Indices, Indices]:
    """Returns the samples that an epoch of several sets draws, and their epochs in their own set: both (epoch_size,).

    The samples of the sets are numbered one set after the other. A set that is drawn twice as often as it has samples
    goes through two epochs of its own.
    """
    turns = np.repeat(np.arange(len(mixture.draws)), mixture.draws)
    turns = turns[permutation(mixture.epoch_size, seed, epoch, _TURNS)]
    index, epochs = np.empty_like(turns), np.empty_like(turns)
    first = np.cumsum((0, *mixture.sizes))  # sample of each set
    for number, (size, draws) in enumerate(zip(mixture.sizes, mixture.draws, strict=True)):
        position = np.arange(epoch * draws, (epoch + 1) * draws)
        index[turns == number] = first[number] + _stream(Mixture.of(size), position, seed, block_size)[0]
        epochs[turns == number] = position // size
    return index, epochs


def training_batch(
    mixture: Mixture, batch_size: int, seed: int, number: int, block_size: int = 1
) -> tuple[Indices, Indices]:
    """Returns samples and their epochs, both (batch_size,), of the stream's global batch `number`."""
    position = np.arange(number * batch_size, (number + 1) * batch_size)
    return _stream(mixture, position, seed, block_size)


def _stream(mixture: Mixture, position: Indices, seed: int, block_size: int) -> tuple[Indices, Indices]:
    """Returns the samples at increasing positions of the endless stream, and their epochs."""
    index, epochs = np.empty_like(position), position // mixture.epoch_size
    for epoch in np.unique(epochs).tolist():
        now = epochs == epoch
        within = position[now] % mixture.epoch_size
        if len(mixture.sizes) > 1:
            samples, own_epochs = mixture_order(mixture, seed, epoch, block_size)
            index[now], epochs[now] = samples[within], own_epochs[within]
        else:
            index[now] = epoch_order(mixture.epoch_size, seed, epoch, block_size)[within]
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
