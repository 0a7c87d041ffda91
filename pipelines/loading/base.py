"""What all loaders share: which samples come when, how each is cropped, and where a run stands.

A loader's whole future is a pure function of its settings and one number, the position. Subclasses only turn plans into
pixels.
"""

# Shapes: n samples of one rank's share of a batch, S pixels a side.

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from os import PathLike
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from ..imaging.color import converter
from ..imaging.decode import decode
from ..shards import ShardSet
from . import order
from .augment import Crop, crop_windows, flips
from .batch import LabBatch
from .reader import Reader, open_reader, planes_of
from .threads import own_cores

_MEND = "'photochrom verify --decode' lists all such; pack again, into a new folder"


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """One rank's share of a global batch.

    Sample indices (n,), their crop windows (n, 4) as top, left, height and width, and whether they are mirrored (n,).
    """

    index: NDArray[np.int64]
    window: NDArray[np.int64]
    flip: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.index)


class Loader(ABC):
    """Batches of photographs in Lab on `device`.

    Iterating yields LabBatch: in training the rest of the current epoch, so that a loop that was left goes on where it
    was; in evaluation the whole pass.

    Args:
        data: A shard set or its folder.
        batch_size: Samples in a global batch, which all ranks share.
        size: Side S of the square crops in pixels.
        train: Endless shuffled epochs with augmentation; else one pass in storage order, each sample exactly once.
        seed: Of order and augmentation.
        rank: This process's number among world_size; it loads its share of each batch.
        world_size: Number of processes.
        parts: Into how many equal parts training will split each share, to accumulate gradients.
        device: Where decoding ends and the batches are.
        crop: How a square is cut; by default random_resized in training and squash else.
        scale: Share of the photograph's area in a random_resized crop.
        flip: Whether training mirrors one photograph in two.
        samples: Evaluate only these samples (their indices), in this order.
        shuffle_block_size: How many samples that lie together training reads together (order.py); 1 mixes best.
        threads: CPU threads that decode; by default all cores that this process may use.
        prefetch_batches: Batches prepared ahead.
        compiled: Compile what turns bytes into Lab on a GPU, for long runs: it begins some seconds later.

    Raises ValueError when the crops are larger than every photograph. Iterating raises ValueError, with the name of the
    photograph and its shard, when one cannot be decoded.
    """

    def __init__(
        self,
        data: ShardSet | str | PathLike[str],
        *,
        batch_size: int,
        size: int,
        train: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        parts: int = 1,
        device: str | torch.device = "cpu",
        crop: Crop | None = None,
        scale: tuple[float, float] = (0.25, 1.0),
        flip: bool = True,
        samples: Sequence[int] | None = None,
        shuffle_block_size: int = 1,
        threads: int | None = None,
        prefetch_batches: int = 2,
        compiled: bool = False,
    ) -> None:
        self.data = data if isinstance(data, ShardSet) else ShardSet.open(data)
        self.batch_size, self.size, self.train, self.seed = batch_size, size, train, seed
        self.rank, self.world_size, self.parts, self.device = rank, world_size, parts, torch.device(device)
        self.crop: Crop = crop or ("random_resized" if train else "squash")
        self.scale, self.flip, self.shuffle_block_size = scale, flip and train, shuffle_block_size
        self.threads, self.prefetch_batches = own_cores() if threads is None else threads, prefetch_batches
        for name, value in {
            "batch_size": batch_size,
            "threads": self.threads,
            "prefetch_batches": prefetch_batches,
            "shuffle_block_size": shuffle_block_size,
        }.items():
            if value < 1:
                raise ValueError(f"{name}={value} is not a positive number")
        if self.crop not in get_args(Crop):
            raise ValueError(f"crop={self.crop!r} is unknown; known are {', '.join(get_args(Crop))}")
        if train and samples is not None:
            raise ValueError("samples are chosen for evaluation only: train on a shard set of their own")
        if train and batch_size < world_size:
            raise ValueError(
                f"a batch of {batch_size} leaves some of {world_size} processes without a share: enlarge it"
            )
        self._samples = None if samples is None else np.asarray(samples, dtype=np.int64)
        self.num_samples = self.data.num_samples if self._samples is None else len(self._samples)
        self._convert = converter(self.data.store, compiled=compiled and self.device.type == "cuda")
        self._number = 0  # of the next global batch, counted through all epochs
        self._open_at: int | None = None  # the batch that the open stream yields next
        self._stream: Generator[LabBatch] = self._opened(0)
        self.reader: Reader = open_reader(self.data)
        _check_sizes(self.data, size, self.crop)

    @abstractmethod
    def _batches(self, plans: Iterator[BatchPlan]) -> Iterator[LabBatch]:
        """The planned batches; as many plans may be taken ahead of them as are worked on at once."""

    def __len__(self) -> int:
        """Global batches in the epoch that the next batch begins."""
        first, end = self._epoch_range()
        return end - first

    def __iter__(self) -> Iterator[LabBatch]:
        first, end = self._epoch_range()
        if not self.train:
            yield from self._batches(self._plans(first, end))
            return
        while self._number < end:
            if self._number != self._open_at:  # a stream goes on from epoch to epoch, unless somebody has moved on
                self._stream.close()
                self._stream = self._opened(self._number)
            self._open_at = None  # until the batch is there: one that failed is asked for again
            batch = next(self._stream)
            self._number = self._open_at = self._number + 1
            yield batch

    def close(self) -> None:
        """Ends what works ahead."""
        self._stream.close()
        self.reader.close()

    @property
    def epoch(self) -> int:
        """The epoch in which the next batch begins."""
        return self._number * self.batch_size // self.num_samples if self.train else 0

    def set_epoch(self, epoch: int) -> None:
        """Moves to the first batch that begins in `epoch`."""
        self._number = order.first_batch_of_epoch(self.num_samples, self.batch_size, epoch) if self.train else 0

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, as plain JSON: valid on any number of ranks."""
        return {
            "fingerprint": self._fingerprint(),
            "epoch": self.epoch,
            "position": self._number * self.batch_size,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state. Raises ValueError if it was saved with other data or settings."""
        ours, theirs = self._fingerprint(), state["fingerprint"]
        if differing := [name for name in ours if ours[name] != theirs.get(name)]:
            changes = ", ".join(f"{name}={theirs.get(name)} then and {ours[name]} now" for name in differing)
            raise ValueError(
                f"a run goes on with the photographs and the order of its beginning, and these differ: {changes}; "
                "set them as they were"
            )
        self._number = state["position"] // self.batch_size

    def plan(self, number: int) -> BatchPlan:
        """This rank's share of the global batch `number`: a pure function."""
        if self.train:
            index, epoch = order.training_batch(
                self.num_samples, self.batch_size, self.seed, number, self.shuffle_block_size
            )
        else:
            index = order.evaluation_batch(self.num_samples, self.batch_size, number)
            index = index if self._samples is None else self._samples[index]
            epoch = np.zeros_like(index)
        share = order.share(len(index), self.rank, self.world_size)  # of the random order: a fair draw of all samples
        index, epoch = index[share], epoch[share]
        if self.train:
            sorting = order.by_storage(index, epoch, self.parts)
            index, epoch = index[sorting], epoch[sorting]
        window = crop_windows(
            self.crop, self.data.sizes[index], index, epoch, size=self.size, seed=self.seed, scale=self.scale
        )
        flip = flips(index, epoch, seed=self.seed) if self.flip else np.zeros(len(index), dtype=np.bool_)
        return BatchPlan(index=index, window=window, flip=flip)

    def _opened(self, number: int) -> Generator[LabBatch]:
        """The endless stream of batches from `number` on."""
        yield from self._batches(self._plans(number, None))

    def _plans(self, first: int, end: int | None) -> Iterator[BatchPlan]:
        """The plans of batches in which this rank has a share, each announced to the reader some batches before."""
        ahead: deque[BatchPlan] = deque()
        for number in count(first) if end is None else range(first, end):
            plan = self.plan(number)
            if not len(plan):  # in evaluation, a rank can be without a share of the last batch
                continue
            if len(wanted := self._wanted(plan.index)):
                self.reader.prefetch(wanted)
            ahead.append(plan)
            if len(ahead) > self.reader.read_ahead:
                yield ahead.popleft()
        yield from ahead

    def _wanted(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those samples whose stored bytes are needed."""
        return index

    def _unreadable(self, plan: BatchPlan, error: Exception) -> ValueError:
        """What is wrong with a batch: decoders name no file, so each photograph is tried."""
        for index, stored in zip(plan.index.tolist(), self.reader.read(plan.index), strict=True):
            try:
                if self.data.store == "lab":
                    planes_of(stored, self.data.sizes[index])
                else:
                    check_size(decode(stored.tobytes()).pixels.shape[:2], self.data.sizes[index])
            except ValueError as reason:  # it is Rejected now
                return ValueError(f"{self.data.place(index)} cannot be read any more ({reason}): {_MEND}")
        essence = next((line.strip() for line in str(error).splitlines() if "Error" in line), error)
        return ValueError(f"a batch of {self.data.root} cannot be decoded ({essence}): {_MEND}")

    def _epoch_range(self) -> tuple[int, int]:
        """The numbers of the first batch of the current epoch and of the first one after it."""
        if not self.train:
            return 0, -(-self.num_samples // self.batch_size)
        first = order.first_batch_of_epoch(self.num_samples, self.batch_size, self.epoch)
        return first, order.first_batch_of_epoch(self.num_samples, self.batch_size, self.epoch + 1)

    def _fingerprint(self) -> dict[str, Any]:
        return {
            "shards": self.data.digest,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "size": self.size,
            "crop": self.crop,
            "scale": list(self.scale),
            "flip": self.flip,
            "shuffle_block_size": self.shuffle_block_size,
        }


def check_size(found: tuple[int, ...], stated: NDArray[np.int64]) -> None:
    """Raises ValueError when a picture has not the height and width that the manifest states: windows would miss it."""
    if found != tuple(stated.tolist()):
        raise ValueError(f"it is {found[1]}x{found[0]} and was {stated[1]}x{stated[0]} when it was packed")


def _check_sizes(data: ShardSet, size: int, crop: Crop) -> None:
    largest = int(data.sizes.min(axis=1).max())
    if size > largest:
        raise ValueError(
            f"crops of {size} pixels are larger than every photograph in {data.root}, where the longest short side is "
            f"{largest}: lower the size, or pack again with --short-side {size} or more"
        )
    if crop == "random" and (smallest := int(data.sizes.min())) < size:
        raise ValueError(
            f"crop=random cuts {size} pixels out of each photograph, and the smallest in {data.root} has a side of "
            f"{smallest}: lower the size, or use crop=random_resized"
        )
