"""WebDataset as in its guides: tars, decoded by Pillow in the workers of a WebLoader; scikit-image."""

from pathlib import Path
from typing import Any

from .decoding import by_pillow
from .task import Batches, Task, files

NEEDS = ("webdataset", "PIL", "skimage")

_TARS_PER_WORKER = 4


def batches(task: Task) -> Batches:
    import webdataset as wds

    def planes(sample: tuple[Any, str]) -> tuple[Any, Any, int]:
        picture, key = sample
        return *by_pillow(picture, task), int(key)

    tars = files(task.data)
    dataset = wds.WebDataset(tars, shardshuffle=len(tars)).repeat().shuffle(task.num_photographs).decode("pil")
    batched = dataset.to_tuple("jpg", "__key__").map(planes).batched(task.batch_size)
    yield from wds.WebLoader(batched, batch_size=None, num_workers=task.threads)


def write(folder: str, out: str, threads: int) -> None:
    """Writes tars of photographs, some for each worker."""
    import webdataset as wds

    paths = [Path(path) for path in files(folder)]
    Path(out).mkdir()
    samples_per_tar = -(-len(paths) // (_TARS_PER_WORKER * threads))
    with wds.ShardWriter(f"{out}/%06d.tar", maxcount=samples_per_tar, verbose=0) as writer:
        for path in paths:
            writer.write({"__key__": path.stem, "jpg": path.read_bytes()})
