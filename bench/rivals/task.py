"""Task of an entry, and what all entries share: the list of files, and random crops."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# L (B, 1, S, S) and ab (B, 2, S, S), float32 in Lab units, and the numbers (B,) of the photographs.
Batches = Iterator[tuple[Any, Any, Any]]

AREA, RATIO = (0.25, 1.0), (3 / 4, 4 / 3)  # of random_resized crops, as in this project's loaders


@dataclass(frozen=True, kw_only=True)
class Task:
    """Task of one process.

    Args:
        loader: Name of the entry.
        data: Folder of JPEG files, output of a rival's `write`, or shard set.
        crop: squash, random_resized or, for this project's loaders, any other.
        size: Side of the batches in pixels.
        batch_size: Photographs in a batch.
        threads: Threads or workers.
        num_photographs: Photographs in the data set.
        device: Device of the batches.
        started: Start of the process, by time.monotonic.
    """

    loader: str
    data: str
    crop: str
    size: int
    batch_size: int
    threads: int
    num_photographs: int
    device: str
    started: float


def files(folder: str) -> list[str]:
    """Returns the photographs of a folder, sorted; the number of each is its index and its name."""
    return sorted(str(path) for path in Path(folder).iterdir())


def random_box(width: int, height: int) -> tuple[int, int, int, int]:
    """Returns left, top, right and bottom of a random crop as torchvision draws it; the whole picture if none fits."""
    for _ in range(10):
        area = width * height * random.uniform(*AREA)
        ratio = math.exp(random.uniform(*map(math.log, RATIO)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if w <= width and h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return left, top, left + w, top + h
    return 0, 0, width, height
