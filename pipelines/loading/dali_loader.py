"""DaliLoader: NVIDIA DALI decodes, crops, resizes and flips on the GPU; on the CPU it decodes the crops.

DALI's own readers know one order, shuffle in a buffer, and load their checkpoints into other data without an error. So
`Reader` provides the bytes, in the order of the plans, as arrays over memory maps, and one pipeline serves a whole run.
"""

import ctypes
import os
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..shards import ShardSet
from ..system import is_out_of_memory, require_dali
from ..threads import ThreadPool
from .base import BatchPlan, Loader
from .batch import LabBatch
from .batch_buffer import ArrayPool, CpuBatchBuffer, submit_range
from .reader import Bytes, lab_planes


@dataclass(eq=False, repr=False)
class DaliLoader(Loader):
    """Loader that decodes with DALI, on the GPU if `device` is one.

    Args:
        hw_decoder_load: Share of the JPEGs for a GPU's hardware decoder, where it has one; from 0 to 1.

    All other arguments are those of Loader. Raises ImportError when DALI is not installed.
    """

    hw_decoder_load: float = 0.9

    def __post_init__(self, source: ShardSet | str | PathLike[str]) -> None:
        super().__post_init__(source)
        require_dali()
        self._pipeline: _Pipeline | None = None
        self._arrays = ArrayPool()
        self._pool = ThreadPool(self.threads)

    def _load(self, plans: Iterator[BatchPlan]) -> Iterator[LabBatch]:
        # One iterator has the pipeline at a time, and returns it while its position is known: not after an error or a
        # keyboard interrupt.
        pipeline, self._pipeline = self._pipeline or _Pipeline(self), None
        try:
            pipeline.start(plans)
        except RuntimeError:  # of an earlier batch that was not asked for
            pipeline = _Pipeline(self)
            pipeline.start(plans)
        while (decoded := self._decode(pipeline)) is not None:
            L, ab = self._convert(*decoded)
            try:
                yield LabBatch(L=L, ab=ab, index=torch.from_numpy(decoded[0].index))
            except GeneratorExit:
                break
        self._pipeline = pipeline

    def _decode(self, pipeline: "_Pipeline") -> tuple[BatchPlan, Any] | None:
        try:
            return pipeline.run()
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise self._decoding_error(pipeline.pending[0][0], error) from error

    def _convert(self, plan: BatchPlan, decoded: Any) -> tuple[Tensor, Tensor]:
        if self.device.type == "cuda":
            return self._to_lab(torch.from_dlpack(decoded.as_tensor()))
        buffer = CpuBatchBuffer(len(plan), self.size, self.data.store, self._arrays)
        images = [np.asarray(decoded[i]) for i in range(len(plan))]

        def write(i: int) -> None:
            _, _, height, width = plan.window[i].tolist()
            buffer.write(i, images[i], (0, 0, height, width), bool(plan.flip[i]))

        for future in submit_range(self._pool, write, len(plan), self.threads):
            future.result()
        return buffer.finish()


class _Pipeline:
    """A DALI pipeline that runs one iterator of plans after another.

    DALI takes inputs some batches ahead of its outputs and reads the bytes in place, so they are kept here until then.
    """

    def __init__(self, loader: DaliLoader) -> None:
        self._loader = loader
        self._plans: Iterator[BatchPlan] = iter(())
        self.pending: deque[tuple[BatchPlan, list[Bytes]]] = deque()
        self._is_idle = True
        self._dali, self._process = _build(loader, self._inputs), os.getpid()

    def start(self, plans: Iterator[BatchPlan]) -> None:
        """Continues with these plans; batches of earlier plans are dropped."""
        self._plans = iter(())
        while not self._is_idle:
            self.run()
        self._plans, self._is_idle = plans, False

    def run(self) -> tuple[BatchPlan, Any] | None:
        """Returns the next plan and its decoded images; None after the last one."""
        if self._process != os.getpid():
            self._replace_inherited()
        device = self._loader.device
        stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        try:
            (decoded,) = self._dali.run(stream)
        except StopIteration:
            self._dali.reset()
            self._is_idle = True
            return None
        return self.pending.popleft()[0], decoded

    def _replace_inherited(self) -> None:
        """Builds a new pipeline in a forked process, which decodes again what the old one had ahead."""
        self._plans = chain([plan for plan, _ in self.pending], self._plans)
        self.pending.clear()
        self._dali, self._process = _build(self._loader, self._inputs), os.getpid()

    def _inputs(self) -> tuple[Any, ...]:
        loader, plan = self._loader, next(self._plans)  # StopIteration ends DALI's epoch
        stored = loader.reader.read(plan.index)
        self.pending.append((plan, stored))
        if loader.data.store == "lab":
            try:
                stored = list(map(lab_planes, stored, loader.data.sizes[plan.index]))
            except ValueError as error:
                raise loader._decoding_error(plan, error) from error
        window = plan.window.astype(np.int32)
        crops = stored, np.ascontiguousarray(window[:, :2]), np.ascontiguousarray(window[:, 2:])
        return crops if loader.device.type == "cpu" else (*crops, _sizes(plan, loader.size))


def _sizes(plan: BatchPlan, size: int) -> NDArray[np.float32]:
    """Returns height and width of each sample for DALI's resize, which flips an image if the width is negative."""
    return np.stack([np.full(len(plan), size), np.where(plan.flip, -size, size)], axis=1).astype(np.float32)


def _build(loader: DaliLoader, inputs: Any) -> Any:
    from nvidia.dali import Pipeline, fn, types

    on_gpu, is_lab = loader.device.type == "cuda", loader.data.store == "lab"
    num_outputs = 4 if on_gpu else 3
    pipeline = Pipeline(
        batch_size=-(-loader.batch_size // loader.world_size),
        num_threads=loader.threads,
        device_id=loader.device.index or 0 if on_gpu else None,
        prefetch_queue_depth=loader.prefetch_batches,
        exec_dynamic=True,  # the executor whose outputs may be kept, so that torch can take them without a copy
    )
    with pipeline:
        stored, start, shape, *size = fn.external_source(
            source=inputs,
            num_outputs=num_outputs,
            dtype=[types.UINT8, types.INT32, types.INT32, types.FLOAT][:num_outputs],
            ndim=[3 if is_lab else 1, 1, 1, 1][:num_outputs],
            layout=["CHW" if is_lab else "", "", "", ""][:num_outputs],
            no_copy=True,
        )
        # On the CPU nothing is resized here: torch takes a fifth of the time.
        pipeline.set_outputs(_images(loader, stored, start, shape, *size, on_gpu=on_gpu))
    pipeline.build()
    return pipeline


def _images(loader: DaliLoader, stored: Any, start: Any, shape: Any, size: Any = None, *, on_gpu: bool) -> Any:
    """Returns the graph from stored bytes to the windows of images, resized and flipped where a size is given."""
    from nvidia.dali import fn, types

    if loader.data.store == "lab":
        images = fn.slice(stored.gpu() if on_gpu else stored, start=start, shape=shape, axes=[1, 2])
    else:
        images = fn.decoders.image_slice(
            stored,
            start=start,
            shape=shape,
            axes=[0, 1],
            device="mixed" if on_gpu else "cpu",
            adjust_orientation=False,  # the packer has applied it
            jpeg_fancy_upsampling=True,  # as on the CPU; without it, subsampled chroma is blocky
            hw_decoder_load=loader.hw_decoder_load,
        )
    if size is None:
        return images
    return fn.resize(images, size=size, interp_type=types.INTERP_LINEAR, antialias=True)


def _abandon_pipelines() -> None:
    """Lets a forked process end: pipelines are never destroyed there, since they would wait for threads that are gone.

    DALI itself ends all pipelines that it knows at exit.
    """
    if "nvidia.dali.pipeline" in sys.modules:
        from nvidia.dali import Pipeline

        for pipeline in filter(None, [reference() for reference in Pipeline._pipes]):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(pipeline._pipe))
            pipeline._pipe = None


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_abandon_pipelines)
