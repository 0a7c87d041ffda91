"""WebDataset as in its guides: tars, decoded by Pillow in the workers of a WebLoader; scikit-image."""

from pathlib import Path
from typing import Any

import webdataset as wds
from torch import Tensor

from .original import to_lab
from .task import Batches, Task, files

_SHUFFLE = 1000  # photographs


def batches(task: Task) -> Batches:
    def planes(sample: tuple[Any, str]) -> tuple[Tensor, Tensor, int]:
        picture, key = sample
        return *to_lab(picture, task), int(key)

    tars = files(task.data)
    dataset = wds.WebDataset(tars, shardshuffle=len(tars)).repeat().shuffle(_SHUFFLE).decode("pil")
    batched = dataset.to_tuple("jpg", "__key__").map(planes).batched(task.batch_size)
    yield from wds.WebLoader(batched, batch_size=None, num_workers=task.threads)


def write(folder: str, out: str, threads: int) -> None:
    """Writes tars of photographs, some for each worker."""
    paths = [Path(path) for path in files(folder)]
    Path(out).mkdir()
    with wds.ShardWriter(f"{out}/%06d.tar", maxcount=-(-len(paths) // (4 * threads)), verbose=0) as writer:
        for path in paths:
            writer.write({"__key__": path.stem, "jpg": path.read_bytes()})
