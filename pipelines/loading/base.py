"""The base of all loaders: which samples come when, how each is cropped, and the position of a run.

All future batches of a loader are a pure function of its settings and one number, the position. Subclasses only turn
plans into pixels.
"""

# Shapes: n samples of one rank's share of a batch, S pixels a side.

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass, field
from itertools import count
from os import PathLike
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from ..imaging.color import lab_converter
from ..imaging.decode import decode
from ..shards import ShardSet
from ..structured import check_counts, validated
from ..system import available_cpus
from . import order
from .augment import Crop, crop_windows, flips
from .batch import LabBatch
from .order import Mixture
from .reader import Reader, lab_planes, open_reader

_CPU = torch.device("cpu")
_REMEDY = "'photochrom verify --decode' lists all such photographs; pack again, into a new folder"


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """One rank's share of a global batch.

    Sample indices (n,), their crop windows (n, 4) as top, left, height and width, and which are flipped (n,).
    """

    index: NDArray[np.int64]
    window: NDArray[np.int64]
    flip: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True, kw_only=True)
class _Position:
    """The state of a loader, without what follows from it."""

    fingerprint: dict[str, Any]
    position: int

    def __post_init__(self) -> None:
        check_counts(self, "position")


@dataclass(eq=False, repr=False)
class Loader(ABC):
    """Batches of photographs in Lab on `device`.

    Iterating yields LabBatch. In training it yields the rest of the current epoch, so that a second loop continues
    where the first one stopped; in evaluation it yields all samples once.

    Args:
        source: A shard set or its folder; for several, a JoinedShardSet.
        batch_size: Samples in a global batch, which all ranks share.
        size: Side S of the square crops in pixels.
        train: Endless shuffled epochs with augmentation; otherwise one pass in storage order, each sample once.
        seed: Seed of the order and the augmentation.
        rank: This process's number among world_size; it loads its share of each batch.
        world_size: Number of processes.
        parts: Equal parts that training splits each share into, to accumulate gradients.
        device: Device of the batches, and of decoding where the loader can.
        crop: How a square is cut; by default random_resized in training and squash otherwise.
        scale: Share of the photograph's area in a random_resized crop.
        flip: Flip one photograph in two left to right, in training.
        samples: Evaluate only these samples, in this order.
        num_samples: Train only on the first so many samples; 0 takes all.
        shuffle_block_size: Neighbours in storage that training reads together (order.py); 1 mixes best.
        threads: CPU threads that decode; by default as many as there are cores.
        prefetch_batches: Batches prepared ahead.
        compiled: Compile the conversion to Lab on a GPU. It takes some seconds at the start and pays in long runs.
        reader: Reads the stored bytes; by default `open_reader` of the set.

    Raises ValueError when the crops are larger than every photograph. Iterating raises ValueError with the name of the
    photograph and its shard when one cannot be decoded.
    """

    source: InitVar[ShardSet | str | PathLike[str]]
    _: KW_ONLY
    batch_size: int
    size: int
    train: bool
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    parts: int = 1
    device: torch.device = _CPU
    crop: Crop | None = None
    scale: tuple[float, float] = (0.25, 1.0)
    flip: bool = True
    samples: Sequence[int] | None = None
    num_samples: int = 0
    shuffle_block_size: int = 1
    threads: int = field(default_factory=available_cpus)
    prefetch_batches: int = 2
    compiled: bool = False
    reader: Reader = None  # type: ignore[assignment]  # opened in __post_init__

    def __post_init__(self, source: ShardSet | str | PathLike[str]) -> None:
        self.data = source if isinstance(source, ShardSet) else ShardSet.open(source)
        self.device = torch.device(self.device)  # a string will do
        self._crop: Crop = self.crop or ("random_resized" if self.train else "squash")
        self._flip = self.flip and self.train
        _check_settings(self)
        _check_sizes(self.data, self.size, self._crop)
        self._samples = None if self.samples is None else np.asarray(self.samples, dtype=np.int64)
        self._mixture = Mixture(self.data.set_sizes, self.data.draws)
        if self.num_samples:
            self._mixture = Mixture.of(self.num_samples)
        self.num_samples = self._mixture.epoch_size if self._samples is None else len(self._samples)
        self._to_lab = lab_converter(self.data.store, compiled=self.compiled and self.device.type == "cuda")
        self.reader = self.reader or open_reader(self.data)
        self._next_batch = 0  # number of the next global batch, counted through all epochs
        self._stream: Generator[LabBatch] = self._open_stream(0)
        self._stream_position: int | None = None  # number of the batch that the stream yields next

    @abstractmethod
    def _load(self, plans: Iterator[BatchPlan]) -> Iterator[LabBatch]:
        """Yields the planned batches. It may take plans for as many batches ahead as it loads at the same time."""

    def __len__(self) -> int:
        """Returns the number of global batches in the epoch that the next batch begins."""
        first, end = self._epoch_range()
        return end - first

    def __iter__(self) -> Iterator[LabBatch]:
        first, end = self._epoch_range()
        if not self.train:
            yield from self._load(self._plans(first, end))
            return
        while self._next_batch < end:
            if self._next_batch != self._stream_position:  # the position was set; otherwise the stream spans epochs
                self._stream.close()
                self._stream = self._open_stream(self._next_batch)
            self._stream_position = None  # unknown until the batch is loaded: a failed one is loaded again
            batch = next(self._stream)
            self._next_batch = self._stream_position = self._next_batch + 1
            yield batch

    def close(self) -> None:
        """Stops loading ahead."""
        self._stream.close()
        self.reader.close()

    @property
    def epoch(self) -> int:
        """The epoch in which the next batch begins."""
        return self._next_batch * self.batch_size // self.num_samples if self.train else 0

    def state_dict(self) -> dict[str, Any]:
        """Returns the position as plain JSON. It is valid on any number of ranks."""
        return {"fingerprint": self._fingerprint(), "epoch": self.epoch, "position": self._next_batch * self.batch_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a saved position. Raises ValueError if it was saved with other data or settings."""
        position = validated(_Position, state, "the position in the data is damaged")
        current, saved = self._fingerprint(), position.fingerprint
        if different := [name for name in current if current[name] != saved.get(name)]:
            changes = ", ".join(f"{name}={saved.get(name, 'unset')} then and {current[name]} now" for name in different)
            raise ValueError(
                f"a run continues with the photographs and the order it began with, and these differ: {changes}; "
                "set them as they were"
            )
        self._next_batch = position.position // self.batch_size

    def plan(self, number: int) -> BatchPlan:
        """Returns this rank's share of the global batch `number`: a pure function."""
        if self.train:
            index, epoch = order.training_batch(
                self._mixture, self.batch_size, self.seed, number, self.shuffle_block_size
            )
        else:
            index = order.evaluation_batch(self.num_samples, self.batch_size, number)
            index = index if self._samples is None else self._samples[index]
            epoch = np.zeros_like(index)
        share = order.share(len(index), self.rank, self.world_size)  # before sorting, so that it is a random draw
        index, epoch = index[share], epoch[share]
        if self.train:
            sorting = order.by_storage(index, epoch, self.parts)
            index, epoch = index[sorting], epoch[sorting]
        window = crop_windows(
            self._crop, self.data.sizes[index], index, epoch, size=self.size, seed=self.seed, scale=self.scale
        )
        flip = flips(index, epoch, seed=self.seed) if self._flip else np.zeros(len(index), dtype=np.bool_)
        return BatchPlan(index=index, window=window, flip=flip)

    def _open_stream(self, number: int) -> Generator[LabBatch]:
        """Yields all batches from `number` on, without end."""
        yield from self._load(self._plans(number, None))

    def _plans(self, first: int, end: int | None) -> Iterator[BatchPlan]:
        """Yields the plans of the batches in which this rank has a share; the reader prefetches them beforehand."""
        ahead: deque[BatchPlan] = deque()
        for number in count(first) if end is None else range(first, end):
            plan = self.plan(number)
            if not len(plan):  # in evaluation, a rank can be without a share of the last batch
                continue
            if len(index := self._index_to_read(plan.index)):
                self.reader.prefetch(index)
            ahead.append(plan)
            if len(ahead) > self.reader.read_ahead:
                yield ahead.popleft()
        yield from ahead

    def _index_to_read(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the samples of `index` whose stored bytes are needed."""
        return index

    def _decoding_error(self, plan: BatchPlan, error: Exception) -> ValueError:
        """Returns an error that names the damaged photograph; decoders do not, so each one is decoded alone."""
        for index, stored in zip(plan.index.tolist(), self.reader.read(plan.index), strict=True):
            try:
                if self.data.store == "lab":
                    lab_planes(stored, self.data.sizes[index])
                else:
                    check_size(decode(stored.tobytes()).pixels.shape[:2], self.data.sizes[index])
            except ValueError as reason:  # Rejected among them
                return ValueError(f"{self.data.describe_sample(index)} cannot be read any more ({reason}): {_REMEDY}")
        summary = next((line.strip() for line in str(error).splitlines() if "Error" in line), error)
        return ValueError(f"a batch of {self.data.name} cannot be decoded ({summary}): {_REMEDY}")

    def _epoch_range(self) -> tuple[int, int]:
        """Returns the numbers of the current epoch's first batch and of the first batch after it."""
        if not self.train:
            return 0, -(-self.num_samples // self.batch_size)
        first = order.first_batch_of_epoch(self.num_samples, self.batch_size, self.epoch)
        return first, order.first_batch_of_epoch(self.num_samples, self.batch_size, self.epoch + 1)

    def _fingerprint(self) -> dict[str, Any]:
        draws = {"draws": list(self._mixture.draws)} if len(self._mixture.draws) > 1 else {}
        return {
            "shards": self.data.digest,
            **draws,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "size": self.size,
            "crop": self._crop,
            "scale": list(self.scale),
            "flip": self._flip,
            "shuffle_block_size": self.shuffle_block_size,
        }


def check_size(actual: tuple[int, ...], expected: NDArray[np.int64]) -> None:
    """Raises ValueError when an image does not have the manifest's height and width: windows could lie outside it."""
    if actual != tuple(expected.tolist()):
        raise ValueError(f"it is {actual[1]}x{actual[0]} and was {expected[1]}x{expected[0]} when it was packed")


def _check_settings(loader: Loader) -> None:
    for name in ("batch_size", "threads", "prefetch_batches", "shuffle_block_size"):
        if getattr(loader, name) < 1:
            raise ValueError(f"{name}={getattr(loader, name)} is not a positive number")
    if loader._crop not in get_args(Crop):
        raise ValueError(f"crop={loader._crop!r} is unknown; known are {', '.join(get_args(Crop))}")
    if loader.train and loader.samples is not None:
        raise ValueError("samples are chosen for evaluation only: train on a shard set of their own")
    if loader.num_samples and not (loader.train and 0 < loader.num_samples <= loader.data.num_samples):
        raise ValueError(
            f"num_samples={loader.num_samples} is for training, on at most {loader.data.num_samples} samples"
        )
    if loader.train and loader.batch_size < loader.world_size:
        raise ValueError(
            f"a batch of {loader.batch_size} leaves some of {loader.world_size} processes without a share: enlarge it"
        )


def _check_sizes(data: ShardSet, size: int, crop: Crop) -> None:
    largest = int(data.sizes.min(axis=1).max())
    if size > largest:
        raise ValueError(
            f"crops of {size} pixels are larger than every photograph in {data.name}, where the longest short side is "
            f"{largest}: lower the size, or pack again with --short-side {size} or more"
        )
    if crop == "random" and (smallest := int(data.sizes.min())) < size:
        raise ValueError(
            f"crop=random cuts {size} pixels out of each photograph, and the smallest in {data.name} has a side of "
            f"{smallest}: lower the size, or use crop=random_resized"
        )
