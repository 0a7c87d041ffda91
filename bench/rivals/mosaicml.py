"""MosaicML Streaming: MDS shards read by a StreamingDataset; OpenCV in the workers of torch's DataLoader."""

from pathlib import Path
from typing import Any

from .decoding import by_opencv
from .task import Batches, Task, files

NEEDS = ("streaming", "cv2")
INSTALL = "needs older packages: name an environment of its own, with rivals-mosaicml, with --python"

_PASSES = 1000  # in an epoch


def batches(task: Task) -> Batches:
    from streaming import Stream, StreamingDataset
    from torch.utils.data import DataLoader

    class Photographs(StreamingDataset):  # type: ignore[misc]
        """Dataset of the photographs as Lab."""

        def __getitem__(self, index: int) -> tuple[Any, Any, int]:
            sample = super().__getitem__(index)
            return *by_opencv(sample["jpeg"], task), sample["number"]

    stream = Stream(local=task.data, repeat=_PASSES)
    photographs: Any = Photographs(streams=[stream], batch_size=task.batch_size, shuffle=True)
    while True:
        yield from DataLoader(photographs, task.batch_size, num_workers=task.threads)


def write(folder: str, out: str, threads: int) -> None:
    """Writes shards of photographs as they are."""
    from streaming import MDSWriter

    with MDSWriter(out=out, columns={"jpeg": "bytes", "number": "int"}, size_limit="8mb") as writer:
        for number, path in enumerate(files(folder)):
            writer.write({"jpeg": Path(path).read_bytes(), "number": number})
