"""TorchLoader: decodes on the CPU in threads, without DALI; for machines that have none, and as DALI's reference.

libjpeg-turbo, torch's resize and the Lab kernel let go of Python's lock, so that threads need no copies between
processes (docs/performance.md has the comparison).
"""

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
import torch

from ..imaging.decode import decode
from .base import BatchPlan, Loader, check_size
from .batch import LabBatch
from .batch_buffer import BatchBuffer, BatchBuffers, Pixels
from .reader import Bytes, planes_of
from .threads import Threads, Work


class TorchLoader(Loader):
    """Loader that decodes with libjpeg-turbo; on a GPU, resized bytes travel and become Lab there."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._threads = Threads(self.threads)
        self._memory = threading.local()
        self.canvases = BatchBuffers(self.size, self.data.store, self.device, self._convert)

    def _batches(self, plans: Iterator[BatchPlan]) -> Iterator[LabBatch]:
        started: deque[_Started] = deque()
        try:
            for plan in plans:
                started.append(self._start(plan))
                if len(started) > self.prefetch_batches:
                    yield self._finished(started.popleft())
            while started:
                yield self._finished(started.popleft())
        finally:
            for batch in started:
                batch.work.cancel()

    def _start(self, plan: BatchPlan) -> "_Started":
        canvas = self._blank(len(plan))
        wanted, windows = self._wanted(plan.index), plan.window.tolist()
        stored = dict(zip(wanted.tolist(), self.reader.read(wanted), strict=True))

        def put(i: int) -> None:
            index = int(plan.index[i])
            picture = self.picture(index, stored.get(index))
            canvas.put(i, picture, tuple(windows[i]), bool(plan.flip[i]))

        return _Started(plan, canvas, self._threads.start(put, len(plan)))

    def _blank(self, number: int) -> BatchBuffer:
        return self.canvases.blank(number)

    def _finished(self, batch: "_Started") -> LabBatch:
        try:
            batch.work.wait()
        except (ValueError, OSError) as error:
            raise self._unreadable(batch.plan, error) from error
        L, ab = batch.canvas.lab()
        return LabBatch(L=L, ab=ab, index=torch.from_numpy(batch.plan.index))

    def picture(self, index: int, stored: Any) -> Any:
        """The whole picture, as the canvas takes it: uint8 (H, W, 3) of sRGB, or (3, H, W) of Lab codes.

        `stored` are its bytes, if they were wanted.
        """
        return self._decoded(index, stored, self._scratch(index))

    def _decoded(self, index: int, stored: Bytes, out: Pixels | None = None) -> Pixels:
        """The picture, in `out` if it fits there."""
        if self.data.store == "lab":
            return planes_of(stored, self.data.sizes[index])
        try:
            picture = simplejpeg.decode_jpeg(stored, colorspace="RGB", strict=True, buffer=out)
        except ValueError:  # it is damaged, or no JPEG: shard sets of others hold PNG, WebP, CMYK too
            picture = decode(stored.tobytes()).pixels
        check_size(picture.shape[:2], self.data.sizes[index])
        return picture

    def _scratch(self, index: int) -> Pixels:
        """This thread's memory for a picture, used again and again: new memory takes a fifth of a decode's time."""
        needed = 3 * int(self.data.sizes[index].prod())
        if getattr(self._memory, "size", 0) < needed:
            self._memory.size, self._memory.bytes = needed, np.empty(needed, dtype=np.uint8)
        return self._memory.bytes


@dataclass(frozen=True)
class _Started:
    plan: BatchPlan
    canvas: BatchBuffer
    work: Work
