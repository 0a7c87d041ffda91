"""Task of an entry, and what rivals share: the list of files, random crops, and torch's DataLoader."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from .entries import SQUASH

Planes = tuple[Tensor, Tensor]  # L (1, S, S) and ab (2, S, S), float32 in Lab units
Batches = Iterator[tuple[Tensor, Tensor, Tensor]]  # L (B, 1, S, S), ab (B, 2, S, S), numbers (B,) of the photographs

AREA, RATIO = (0.25, 1.0), (3 / 4, 4 / 3)  # of random_resized crops, as in this project's loaders


@dataclass(frozen=True, kw_only=True)
class Task:
    """Task of one process.

    Args:
        loader: Name of the entry's loader.
        data: Folder of JPEG files, output of a rival's `write`, or shard set.
        crop: squash or random_resized; this project's loaders take all their crops.
        size: Side of the batches in pixels.
        batch_size: Photographs in a batch.
        threads: Threads or workers.
        device: Device of the batches.
        seconds: Measuring time.
        reference: Lab of the squashed photographs, a .npy (photographs, 3, S, S).
    """

    loader: str
    data: str
    crop: str
    size: int
    batch_size: int
    threads: int
    device: str
    seconds: float
    reference: str


def files(folder: str) -> list[str]:
    """Returns the photographs of a folder, sorted; the number of each is its index and its name."""
    return sorted(str(path) for path in Path(folder).iterdir())


def random_box(task: Task, width: int, height: int) -> tuple[int, int, int, int] | None:
    """Returns left, top, right and bottom of a crop, drawn as torchvision does; None for the whole photograph."""
    for _ in range(10 if task.crop != SQUASH else 0):
        area = width * height * random.uniform(*AREA)
        ratio = math.exp(random.uniform(*map(math.log, RATIO)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if w <= width and h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return left, top, left + w, top + h
    return None


def is_mirrored(task: Task) -> bool:
    """Draws whether a photograph is mirrored; those that are squashed never are."""
    return task.crop != SQUASH and random.random() < 0.5


class Files(Dataset[tuple[Tensor, Tensor, int]]):
    """Dataset of a folder's photographs: L, ab and the number; `planes` makes L and ab from a path."""

    def __init__(self, task: Task, planes: Callable[[str, Task], Planes]) -> None:
        self._paths, self._task, self._planes = files(task.data), task, planes

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, int]:
        return *self._planes(self._paths[number], self._task), number


def endless(dataset: Any, task: Task) -> Iterator[Any]:
    """Yields batches of one endless epoch, so that queues stay full: each photograph once, then each again."""
    sampler = RandomSampler(dataset, num_samples=len(dataset) * 10**6)
    yield from DataLoader(dataset, task.batch_size, sampler=sampler, num_workers=task.threads)
