"""DaliLoader: NVIDIA DALI reads, decodes, crops, resizes and mirrors; one graph for the CPU and the GPU.

DALI's own shuffling is a buffer, and its checkpoints load silently into other data. But its WebDataset reader follows
an index file to the letter, so the order is written down as index files: one entry (tar, index) per run of samples that
lie in one tar. That gives any order on any number of ranks, without Python in the path of the pixels.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .files import IN_MEMORY
from .loader import BatchPlan, Loader
from .photograph import decode
from .shards import ShardSet, index_text

INSTALL_DALI = (
    "pip install 'photochrom[cuda13]', or 'photochrom[cuda12]' for V100 and older drivers; both also run without a GPU"
)

# One pipeline serves an era: as many batches as keep these two in bounds. Each entry costs DALI a memory map (it fails
# at 40,000 entries), and each sample a line to write before the first batch (0.1 s for them all). But building a
# pipeline takes an H100 some 2 s, in which nothing is trained.
_MAX_ENTRIES = 1024
_MAX_SAMPLES = 131072


class DaliLoader(Loader):
    """Loader that decodes with DALI, on the GPU when `device` is one.

    Args:
        threads: DALI's CPU threads; by default all cores that this process may use.
        prefetch: Batches that DALI prepares ahead.

    All else is as in Loader. Raises ImportError when DALI is not installed; iterating raises ValueError, with the name
    of the shard, when a photograph does not decode.
    """

    def __init__(self, *args: Any, threads: int | None = None, prefetch: int = 2, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        require_dali()
        self.threads = threads or len(os.sched_getaffinity(0))
        self.prefetch = prefetch
        self._era: _Era | None = None

    def _pixels(self, number: int, plan: BatchPlan) -> Tensor:
        if self._era is None or self._era.next_number != number:
            self._era = None  # the old pipeline's memory goes before the new one's comes
            self._era = _Era(self, number)
        pixels = self._era.run()[: len(plan.index)]
        if self._era.next_number is None:
            self._era = None  # spent, and its memory is free for others
        return pixels


class _Era:
    """One DALI pipeline over consecutive batches, the first of which is the global batch `first`."""

    def __init__(self, loader: DaliLoader, first: int) -> None:
        self._first = first
        self.next_number: int | None = first
        self._loader = loader
        self._batches = _padded(_plans(loader, first))
        self._end = first + len(self._batches)
        with tempfile.TemporaryDirectory(prefix="photochrom-", dir=IN_MEMORY) as folder:
            tars, indices = _write_indices(loader.data, self._batches, Path(folder))
            self._pipeline = self._build(tars, indices)

    def run(self) -> Tensor:
        """sRGB uint8 (share, S, S, 3) of the next batch, filled up at its end."""
        assert self.next_number is not None
        on_gpu = self._loader.device.type == "cuda"
        stream = torch.cuda.current_stream(self._loader.device) if on_gpu else None
        try:
            (images,) = self._pipeline.run(stream)
        except RuntimeError as error:
            raise ValueError(self._explain(error)) from error
        self.next_number += 1
        if self.next_number == self._end:
            self.next_number = None  # nothing is left in this pipeline
        pixels: Tensor = torch.from_dlpack(images.as_tensor())
        return pixels

    def _explain(self, error: RuntimeError) -> str:
        """What is wrong with the next batch: DALI names no file for junk bytes, so each photograph is tried."""
        assert self.next_number is not None
        data = self._loader.data
        for index in np.unique(self._batches[self.next_number - self._first].index).tolist():
            try:
                decode(data.sample(index).jpeg())
            except (OSError, ValueError) as reason:  # the photograph is Rejected now, or its json is none any more
                tar = data.tar(index).name
                return f"sample {index} of {data.root}, in {tar}, cannot be read any more ({reason}): pack again"
        essence = next((line.strip() for line in str(error).splitlines() if "Error" in line or ".tar" in line), error)
        return f"DALI stopped at batch {self.next_number} of {data.root}: {essence}"

    def _build(self, tars: list[str], indices: list[str]) -> Any:
        from nvidia.dali import Pipeline, fn, types

        loader = self._loader
        on_gpu = loader.device.type == "cuda"
        pipeline = Pipeline(
            batch_size=len(self._batches[0].index),
            num_threads=loader.threads,
            device_id=loader.device.index or 0 if on_gpu else None,
            prefetch_queue_depth=loader.prefetch,
            exec_dynamic=True,  # the executor whose outputs may be kept, so that torch can take them without a copy
        )
        with pipeline:
            jpegs = fn.readers.webdataset(
                paths=tars, index_paths=indices, ext=["jpg"], missing_component_behavior="error"
            )
            start, shape, size = fn.external_source(
                source=self._windows(), num_outputs=3, dtype=[types.INT32, types.INT32, types.FLOAT]
            )
            images = fn.decoders.image_slice(
                jpegs,
                start=start,
                shape=shape,
                axes=[0, 1],
                device="mixed" if on_gpu else "cpu",
                jpeg_fancy_upsampling=True,  # as on the CPU: without it, subsampled chroma comes out blocky
            )
            pipeline.set_outputs(fn.resize(images, size=size, interp_type=types.INTERP_LINEAR, antialias=True))
        pipeline.build()
        return pipeline

    def _windows(self) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]]:
        """Each batch's crop origins, crop shapes and output sizes; a negative width mirrors the picture."""
        for plan in self._batches:
            window = plan.window.astype(np.int32)
            width = np.where(plan.flip, -self._loader.size, self._loader.size)
            size = np.stack([np.full_like(width, self._loader.size), width], axis=1).astype(np.float32)
            yield np.ascontiguousarray(window[:, :2]), np.ascontiguousarray(window[:, 2:]), size


def _plans(loader: DaliLoader, first: int) -> list[BatchPlan]:
    """The plans of one era: bounded by entries and samples, and in evaluation by the end of the pass."""
    plans: list[BatchPlan] = []
    num_entries = num_samples = 0
    while num_entries < _MAX_ENTRIES and num_samples < _MAX_SAMPLES:
        plan = loader.plan(first + len(plans))
        if not len(plan.index):
            break
        plans.append(plan)
        num_entries += 1 + int(np.count_nonzero(np.diff(loader.data.shard_of(plan.index))))
        num_samples += len(plan.index)
    return plans


def _padded(plans: list[BatchPlan]) -> list[BatchPlan]:
    """The plans filled up to equal sizes by repeating their last samples: DALI's batches all have one size."""
    share = max(len(plan.index) for plan in plans)

    def fill(values: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([values, np.repeat(values[-1:], share - len(values), axis=0)])

    return [BatchPlan(index=fill(plan.index), window=fill(plan.window), flip=fill(plan.flip)) for plan in plans]


def _write_indices(data: ShardSet, plans: list[BatchPlan], folder: Path) -> tuple[list[str], list[str]]:
    """Writes the plans' order as index files; returns the tars to read and their indices, one per run of samples."""
    index = np.concatenate([plan.index for plan in plans])
    shards = data.shard_of(index)
    tars: list[str] = []
    indices: list[str] = []
    for run in np.split(np.arange(len(index)), np.flatnonzero(np.diff(shards)) + 1):
        lines = [data.index_line(i) for i in index[run].tolist()]
        path = folder / str(len(indices))
        path.write_text(index_text(lines))
        tars.append(str(data.tar(int(index[run[0]]))))
        indices.append(str(path))
    return tars, indices


def require_dali() -> None:
    """Raises ImportError that says what to install when DALI is missing."""
    try:
        import nvidia.dali  # noqa: F401
    except ImportError as error:
        raise ImportError(f"NVIDIA DALI cannot be imported ({error}): {INSTALL_DALI}") from None
