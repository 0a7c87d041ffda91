"""TorchLoader: decodes on the CPU in threads, without DALI; for machines without DALI, and as its reference.

libjpeg-turbo, torch's resize and the Lab kernel release the GIL, so that threads do without the copies that processes
need (docs/performance.md has the comparison).
"""

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, wait
from os import PathLike
from typing import Any

import numpy as np
import simplejpeg
import torch

from ..imaging.decode import decode
from ..shards import ShardSet
from ..threads import ThreadPool
from .base import BatchPlan, Loader, check_size
from .batch import LabBatch
from .batch_buffer import ArrayPool, BatchBuffer, CpuBatchBuffer, DeviceBatchBuffer, Pixels, submit_range
from .reader import Bytes, lab_planes

_PendingBatch = tuple[BatchPlan, BatchBuffer, list[Future[None]]]


class TorchLoader(Loader):
    """Loader that decodes with libjpeg-turbo. On a GPU, resized bytes are copied there and converted to Lab."""

    def __post_init__(self, source: ShardSet | str | PathLike[str]) -> None:
        super().__post_init__(source)
        self._arrays = ArrayPool()
        self._pool = ThreadPool(self.threads)
        self._local = threading.local()

    def _load(self, plans: Iterator[BatchPlan]) -> Iterator[LabBatch]:
        pending: deque[_PendingBatch] = deque()
        try:
            for plan in plans:
                pending.append(self._start(plan))
                if len(pending) > self.prefetch_batches:
                    yield self._finish(*pending.popleft())
            while pending:
                yield self._finish(*pending.popleft())
        finally:
            wait(future for *_, futures in pending for future in futures if not future.cancel())

    def _start(self, plan: BatchPlan) -> _PendingBatch:
        buffer = self.new_buffer(len(plan))
        to_read, windows = self._index_to_read(plan.index), plan.window.tolist()
        stored = dict(zip(to_read.tolist(), self.reader.read(to_read), strict=True))

        def write(i: int) -> None:
            index = int(plan.index[i])
            buffer.write(i, self.image(index, stored.get(index)), tuple(windows[i]), bool(plan.flip[i]))

        return plan, buffer, submit_range(self._pool, write, len(plan), self.threads)

    def new_buffer(self, batch_size: int) -> BatchBuffer:
        """Returns an empty buffer for what `image` returns."""
        if self.device.type == "cpu":
            return CpuBatchBuffer(batch_size, self.size, self.data.store, self._arrays)
        return DeviceBatchBuffer(batch_size, self.size, self.data.store, self.device, self._to_lab)

    def _finish(self, plan: BatchPlan, buffer: BatchBuffer, futures: list[Future[None]]) -> LabBatch:
        try:
            for future in futures:
                future.result()
        except (ValueError, OSError) as error:
            raise self._decoding_error(plan, error) from error
        L, ab = buffer.finish()
        return LabBatch(L=L, ab=ab, index=torch.from_numpy(plan.index))

    def image(self, index: int, stored: Any) -> Any:
        """Returns a sample's whole image: uint8 (H, W, 3) in sRGB, or (3, H, W) in Lab.

        `stored` holds its bytes if `_index_to_read` asked for them.
        """
        return self._decode(index, stored, self._decoding_memory(index))

    def _decode(self, index: int, stored: Bytes, out: Pixels | None = None) -> Pixels:
        """Returns the image, in `out` if it fits there."""
        if self.data.store == "lab":
            return lab_planes(stored, self.data.sizes[index])
        try:
            image = simplejpeg.decode_jpeg(stored, colorspace="RGB", strict=True, buffer=out)
        except ValueError:  # a damaged JPEG, or another format: indexed shards hold PNG, WebP and CMYK too
            image = decode(stored.tobytes()).pixels
        check_size(image.shape[:2], self.data.sizes[index])
        return image

    def _decoding_memory(self, index: int) -> Pixels:
        """Returns this thread's memory for an image. It is reused: new memory takes a fifth of a decode's time."""
        num_bytes = 3 * int(self.data.sizes[index].prod())
        if getattr(self._local, "num_bytes", 0) < num_bytes:
            self._local.num_bytes, self._local.memory = num_bytes, np.empty(num_bytes, dtype=np.uint8)
        return self._local.memory
