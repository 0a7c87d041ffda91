"""The last check of a finished shard: DALI itself decodes every photograph, in a process that may die of it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..shards import Shard, read_index_lines
from .manifest import index_text
from .worker_pool import TaskFailure, Workers

_CHUNK = 4096  # samples per task, a usual shard: each pipeline leaks some MB in its process
_SECONDS = 300.0
_BATCH_PIXELS = 32_000_000  # decoded at once


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Consecutive samples of a shard: lines of its index, and their stored sizes as (width, height)."""

    tar: Path
    lines: list[str]
    sizes: list[tuple[int, int]]

    def part(self, start: int, stop: int) -> "Samples":
        return Samples(tar=self.tar, lines=self.lines[start:stop], sizes=self.sizes[start:stop])


def samples_of(tar: Path, shard: Shard) -> Samples:
    """Returns all samples of a shard, whose index lies beside its tar."""
    return Samples(tar=tar, lines=read_index_lines(tar.with_suffix(".idx"), shard), sizes=shard.widths_heights)


class DaliCheck(Workers[Samples, str | None]):
    """One child process in which DALI decodes shards on `threads` threads."""

    def __init__(self, *, threads: int) -> None:
        super().__init__(_Decode(threads), number=1, seconds=_SECONDS)

    def refused(self, samples: Samples) -> dict[int, str]:
        """Returns the samples that DALI does not decode to their size, by number, with DALI's message.

        Ranges of samples that fail are halved until single samples are left.
        """
        problems: dict[int, str] = {}
        starts = range(0, len(samples.lines), _CHUNK)
        ranges = [(start, min(start + _CHUNK, len(samples.lines))) for start in starts]
        while ranges:
            results = list(self.map(samples.part(*bounds) for bounds in ranges))
            halves: list[tuple[int, int]] = []
            for (start, stop), (_, problem) in zip(ranges, results, strict=True):
                if problem is not None and stop - start == 1:
                    if isinstance(problem, TaskFailure):
                        problem = f"{problem.reason}: {problem.detail}"
                    problems[start] = problem
                elif problem is not None:
                    middle = (start + stop) // 2
                    halves += [(start, middle), (middle, stop)]
            ranges = halves
        return problems


@dataclass(frozen=True)
class _Decode:
    """Decodes samples by DALI; the task of the child process."""

    threads: int

    def __call__(self, samples: Samples) -> str | None:
        """Returns None if all samples decode to their sizes, else what is wrong with one of them."""
        largest = max(width * height for width, height in samples.sizes)
        batch_size = max(1, min(32, len(samples.sizes), _BATCH_PIXELS // largest))
        # An anonymous file: it disappears with this process, however that ends. DALI opens both by their descriptors:
        # it takes no path that is not UTF-8.
        with open(samples.tar, "rb") as tar, open(os.memfd_create("photochrom-index"), "w") as index:
            index.write(index_text(samples.lines))
            index.flush()
            pipeline = self._pipeline(f"/proc/self/fd/{tar.fileno()}", f"/proc/self/fd/{index.fileno()}", batch_size)
            try:
                pipeline.build()
                for start in range(0, len(samples.sizes), batch_size):
                    (images,) = pipeline.run()
                    for (width, height), shape in zip(samples.sizes[start:], images.shape(), strict=False):
                        if tuple(shape) != (height, width, 3):
                            return f"decoded to {shape[1]}x{shape[0]} where {width}x{height} was stored"
            except RuntimeError as error:
                lines = [line.strip() for line in str(error).splitlines() if line.strip()]
                return next((line for line in lines if "rror" in line), lines[0] if lines else "RuntimeError")
        return None

    def _pipeline(self, tar: str, index: str, batch_size: int) -> Any:
        from nvidia.dali import Pipeline, fn

        pipeline = Pipeline(
            batch_size=batch_size, num_threads=self.threads, device_id=None, prefetch_queue_depth=1, exec_dynamic=True
        )
        with pipeline:
            files = fn.readers.webdataset(
                paths=[tar], index_paths=[index], ext=["jpg"], missing_component_behavior="error"
            )
            pipeline.set_outputs(fn.decoders.image(files, device="cpu", adjust_orientation=False))
        return pipeline
