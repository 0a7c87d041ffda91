"""LitData: chunks written by `optimize`, read by a StreamingDataset; OpenCV in its workers."""

from pathlib import Path
from typing import Any

from .decoding import by_opencv
from .task import Batches, Task, files

NEEDS = ("litdata", "cv2")
INSTALL = "pip install -e '.[rivals-litdata]'"


def batches(task: Task) -> Batches:
    from litdata import ParallelStreamingDataset, StreamingDataLoader, StreamingDataset

    def planes(samples: tuple[dict[str, Any]]) -> tuple[Any, Any, int]:
        (sample,) = samples
        return *by_opencv(sample["jpeg"], task), sample["number"]

    # A ParallelStreamingDataset of one, as only this class is endless and keeps its queues full.
    photographs = StreamingDataset(task.data, shuffle=True)
    endless = ParallelStreamingDataset([photographs], length=float("inf"), transform=planes)
    yield from StreamingDataLoader(endless, batch_size=task.batch_size, num_workers=task.threads)


def write(folder: str, out: str, threads: int) -> None:
    """Writes chunks of photographs as they are."""
    from litdata import optimize

    optimize(fn=_sample, inputs=files(folder), output_dir=out, chunk_bytes="8MB", num_workers=threads, verbose=False)


def _sample(path: str) -> dict[str, Any]:
    return {"jpeg": Path(path).read_bytes(), "number": int(Path(path).stem)}
