"""DaliLoader: NVIDIA DALI decodes, crops, resizes and mirrors on the GPU; on the CPU it decodes the crops.

DALI's own readers know one order, shuffle in a buffer, and their checkpoints load silently into other data. So the
bytes come from `Reader`, in whatever order the plans say, as arrays over memory maps: one pipeline serves a whole run.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..installed import require_dali
from .base import BatchPlan, Loader
from .batch import LabBatch
from .batch_buffer import BatchBuffers
from .reader import Bytes, planes_of
from .threads import Threads


class DaliLoader(Loader):
    """Loader that decodes with DALI, on the GPU when `device` is one.

    Args:
        hw_decoder_load: Share of the JPEGs that a GPU's hardware decoder takes, where it has one; from 0 to 1.

    All else is as in Loader. Raises ImportError when DALI is not installed.
    """

    def __init__(self, *args: Any, hw_decoder_load: float = 0.9, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        require_dali()
        self.hw_decoder_load = hw_decoder_load
        self._pipeline: _Pipeline | None = None
        self._threads = Threads(self.threads)
        self._canvases = BatchBuffers(self.size, self.data.store, self.device, self._convert)

    def _batches(self, plans: Iterator[BatchPlan]) -> Iterator[LabBatch]:
        # Whoever iterates has the pipeline to himself, and gives it back if it is known where it stands: not after an
        # error, nor an interruption from the keyboard.
        pipeline, self._pipeline = self._pipeline or _Pipeline(self), None
        try:
            pipeline.begin(plans)
        except RuntimeError:  # of a batch that was never asked for
            pipeline = _Pipeline(self)
            pipeline.begin(plans)
        while (decoded := self._decoded(pipeline)) is not None:
            L, ab = self._lab(*decoded)
            try:
                yield LabBatch(L=L, ab=ab, index=torch.from_numpy(decoded[0].index))
            except GeneratorExit:
                break
        self._pipeline = pipeline

    def _decoded(self, pipeline: "_Pipeline") -> tuple[BatchPlan, Any] | None:
        try:
            return pipeline.run()
        except RuntimeError as error:
            raise self._unreadable(pipeline.failed, error) from error

    def _lab(self, plan: BatchPlan, decoded: Any) -> tuple[Tensor, Tensor]:
        if self.device.type == "cuda":
            return self._convert(torch.from_dlpack(decoded.as_tensor()))
        canvas = self._canvases.blank(len(plan))
        pictures = [np.asarray(decoded[i]) for i in range(len(plan))]

        def put(i: int) -> None:
            _, _, height, width = plan.window[i].tolist()
            canvas.put(i, pictures[i], (0, 0, height, width), bool(plan.flip[i]))

        self._threads.start(put, len(plan)).wait()
        return canvas.lab()


class _Pipeline:
    """One DALI pipeline, which can be given one stream of plans after another.

    It runs some batches ahead of what is asked for. What it was told of those stays here for as long, since it reads
    the bytes where they lie.
    """

    def __init__(self, loader: DaliLoader) -> None:
        self._loader = loader
        self._plans: Iterator[BatchPlan] = iter(())
        self._ahead: deque[tuple[BatchPlan, list[Bytes]]] = deque()
        self._is_idle = True
        self._dali = _built(loader, self._inputs)

    def begin(self, plans: Iterator[BatchPlan]) -> None:
        """Goes on with these plans; what is left of those before is let go of."""
        self._plans = iter(())
        while not self._is_idle:
            self.run()
        self._plans, self._is_idle = plans, False

    def run(self) -> tuple[BatchPlan, Any] | None:
        """The next plan and its decoded pictures; None after the last one."""
        device = self._loader.device
        stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        try:
            (decoded,) = self._dali.run(stream)
        except StopIteration:
            self._dali.reset()
            self._is_idle = True
            return None
        return self._ahead.popleft()[0], decoded

    @property
    def failed(self) -> BatchPlan:
        """The plan whose run has raised an error."""
        return self._ahead[0][0]

    def _inputs(self) -> tuple[Any, ...]:
        plan = next(self._plans)  # StopIteration is what DALI understands
        stored = self._loader.reader.read(plan.index)
        self._ahead.append((plan, stored))
        if self._loader.data.store == "lab":
            try:
                stored = [planes_of(*each) for each in zip(stored, self._loader.data.sizes[plan.index], strict=True)]
            except ValueError as error:
                raise self._loader._unreadable(plan, error) from error
        window = plan.window.astype(np.int32)
        cuts = stored, np.ascontiguousarray(window[:, :2]), np.ascontiguousarray(window[:, 2:])
        if self._loader.device.type == "cpu":
            return cuts
        width = np.where(plan.flip, -self._loader.size, self._loader.size)  # a negative one mirrors the picture
        size = np.stack([np.full_like(width, self._loader.size), width], axis=1)
        return *cuts, size.astype(np.float32)


def _built(loader: DaliLoader, inputs: Any) -> Any:
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
        if is_lab:
            codes = stored.gpu() if on_gpu else stored
            pictures = fn.slice(codes, start=start, shape=shape, axes=[1, 2])
        else:
            pictures = fn.decoders.image_slice(
                stored,
                start=start,
                shape=shape,
                axes=[0, 1],
                device="mixed" if on_gpu else "cpu",
                jpeg_fancy_upsampling=True,  # as on the CPU: without it, subsampled chroma comes out blocky
                hw_decoder_load=loader.hw_decoder_load,
            )
        if on_gpu:  # on the CPU, torch takes a fifth of the time
            pictures = fn.resize(pictures, size=size[0], interp_type=types.INTERP_LINEAR, antialias=True)
        pipeline.set_outputs(pictures)
    pipeline.build()
    return pipeline
