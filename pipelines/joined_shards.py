"""Several shard sets as one, to train on together."""

import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

from .remote import RemotePath
from .shards import ShardSet


class JoinedShardSet(ShardSet):
    """Several shard sets as one: the samples of the first, then those of the second, and so on.

    Args:
        sets: Shard sets that hold photographs in the same format, all local or all on servers.
        weights: Relative number of samples that training draws from each set; by default as many as it holds. An epoch
            draws as many samples as there are (rounded for each set, and at least one of each).

    `prior` is that of the photographs drawn. Raises ValueError for sets that cannot be joined, and for anything but one
    positive weight for each set.
    """

    def __init__(self, sets: Sequence[ShardSet], weights: Sequence[float] | None = None) -> None:
        _check_kinds(sets)
        self.sets = sets
        self._draws = draws_per_epoch([data.num_samples for data in sets], weights)
        share = np.array(self._draws) / sum(self._draws)
        prior = share @ np.stack([data.prior for data in sets])
        shards = [asdict(shard) for data in sets for shard in data.shards]
        super().__init__(sets[0].root, {**sets[0].manifest, "shards": shards, "ab_histogram": prior})
        self._folders = [data.folder(number) for data in sets for number in range(len(data.shards))]

    @property
    def name(self) -> str:
        return ", ".join(data.name for data in self.sets)

    @property
    def set_sizes(self) -> tuple[int, ...]:
        return tuple(data.num_samples for data in self.sets)

    @property
    def draws(self) -> tuple[int, ...]:
        return self._draws

    @cached_property
    def digest(self) -> str:
        """The digests of all sets, separated by spaces."""
        return " ".join(data.digest for data in self.sets)

    def folder(self, shard: int) -> Path | RemotePath:
        return self._folders[shard]


def open_shards(roots: str | os.PathLike[str] | Sequence[str], weights: Sequence[float] | None = None) -> ShardSet:
    """Opens one shard set, or several as one. Raises ValueError like ShardSet.open and JoinedShardSet."""
    if isinstance(roots, str | os.PathLike):
        return ShardSet.open(roots)
    return JoinedShardSet([ShardSet.open(root) for root in roots], weights)


def draws_per_epoch(sizes: Sequence[int], weights: Sequence[float] | None) -> tuple[int, ...]:
    """Returns how many samples of each set an epoch draws; all of them without weights."""
    if weights is None:
        return tuple(sizes)
    if len(weights) != len(sizes) or not all(0 < weight < math.inf for weight in weights):
        raise ValueError(f"weights={list(weights)} must be one positive number for each of {len(sizes)} shard sets")
    return tuple(max(1, round(sum(sizes) * weight / sum(weights))) for weight in weights)


def _check_kinds(sets: Sequence[ShardSet]) -> None:
    for first, second in pairwise(sets):
        if first.store != second.store:
            raise ValueError(
                f"{first.name} holds photographs as {first.store} and {second.name} as {second.store}, which cannot be "
                "mixed: pack one of them again, with the other's --store"
            )
        if isinstance(first.root, RemotePath) != isinstance(second.root, RemotePath):
            raise ValueError(f"{first.name} and {second.name} must both be local or both on a server: copy one of them")
