"""LitData: chunks written by `optimize`, read by a StreamingDataset; OpenCV in its workers."""

from pathlib import Path
from typing import Any

from litdata import ParallelStreamingDataset, StreamingDataLoader, StreamingDataset, optimize
from torch import Tensor

from .opencv import decode
from .task import Batches, Task, files


def batches(task: Task) -> Batches:
    def planes(samples: tuple[dict[str, Any]]) -> tuple[Tensor, Tensor, int]:
        (sample,) = samples
        return *decode(sample["jpeg"], task), sample["number"]

    # A ParallelStreamingDataset of one, as only this class is endless and keeps its queues full.
    photographs = StreamingDataset(task.data, shuffle=True)
    endless = ParallelStreamingDataset([photographs], length=float("inf"), transform=planes)
    yield from StreamingDataLoader(endless, batch_size=task.batch_size, num_workers=task.threads)


def write(folder: str, out: str, threads: int) -> None:
    """Writes chunks of photographs as they are."""
    optimize(fn=_sample, inputs=files(folder), output_dir=out, chunk_bytes="8MB", num_workers=threads, verbose=False)


def _sample(path: str) -> dict[str, Any]:
    return {"jpeg": Path(path).read_bytes(), "number": int(Path(path).stem)}
