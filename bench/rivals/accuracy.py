"""Compares the L and ab that an entry makes with scikit-image's, photograph by photograph."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from skimage.color import rgb2lab

from .task import Batches, Task, files

_MAX_PASSES = 12  # until each photograph has come, as some loaders repeat some before others have come


def write_reference(folder: Path, out: Path, size: int) -> None:
    """Writes Lab (n, 3, S, S) of a folder's photographs, squashed by Pillow's bicubic filter, by scikit-image."""
    paths = files(str(folder))
    reference = np.lib.format.open_memmap(out, mode="w+", dtype=np.float32, shape=(len(paths), 3, size, size))
    for lab, path in zip(reference, paths, strict=True):
        picture = Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
        lab[:] = rgb2lab(np.asarray(picture, dtype=np.float64) / 255).transpose(2, 0, 1)
    reference.flush()


def check(batches: Batches, task: Task, reference: str) -> dict[str, Any]:
    """Returns the means of L and |ab| over all photographs, each once, and the mean absolute errors of L and ab."""
    expected = np.load(reference, mmap_mode="r")
    seen: dict[int, list[float]] = {}
    for L, ab, numbers in islice(batches, _MAX_PASSES * -(-len(expected) // task.batch_size)):
        for number, *planes in zip(numbers.tolist(), L.cpu().numpy(), ab.cpu().numpy(), strict=True):
            if number not in seen:
                seen[number] = list(_means(planes, expected[number]))
        if len(seen) == len(expected):
            break
    names = ("mean_L", "mean_abs_ab", "error_L", "error_ab")
    return dict(zip(names, np.mean(list(seen.values()), axis=0).tolist(), strict=True)) | {"num_checked": len(seen)}


def _means(planes: list[Any], expected: Any) -> Iterable[float]:
    L, ab = planes
    yield L.mean()
    yield np.abs(ab).mean()
    yield np.abs(L - expected[:1]).mean()
    yield np.abs(ab - expected[1:]).mean()
