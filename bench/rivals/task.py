"""What a entry is asked to do, and what all of them share: files, and how a crop is drawn."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# L (B, 1, S, S) and ab (B, 2, S, S), float32 in Lab units, and the numbers (B,) of the photographs.
Batches = Iterator[tuple[Any, Any, Any]]

AREA, RATIO = (0.25, 1.0), (3 / 4, 4 / 3)  # of random_resized crops, as our loaders cut them


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one process loads.

    `loader` is the entry; `data` a folder of JPEG files, what a rival's `write` has made, or a shard set; `crop`
    squash, random_resized or, of ours, any other; `num_photographs` is how many there are; `device` where the batches
    are to be. `started` is when the process was asked for, by the clock of time.monotonic.
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
    """The photographs of a folder; the number of each is its place in this list, and its name."""
    return sorted(str(path) for path in Path(folder).iterdir())


def random_box(width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a random crop, as torchvision draws it; the whole picture if none fits."""
    for _ in range(10):
        area = width * height * random.uniform(*AREA)
        ratio = math.exp(random.uniform(*map(math.log, RATIO)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if w <= width and h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return left, top, left + w, top + h
    return 0, 0, width, height
