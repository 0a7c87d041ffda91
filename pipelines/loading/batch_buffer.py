"""Decoded images to a batch in Lab: threads write each image to its place, cropped, resized and flipped."""

# Shapes: B samples, S pixels a side; H W of a decoded image. Windows are top, left, height, width in pixels.

import sys
from collections.abc import Callable
from concurrent.futures import Future
from functools import lru_cache
from threading import Lock
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from ..imaging.color import LabConverter
from ..shards import Store
from ..threads import ThreadPool

Pixels = NDArray[np.uint8]
Window = tuple[int, int, int, int]

_CHUNKS_PER_THREAD = 4  # of a batch: few chunks cost less to submit, many finish at the same time
_MAX_ARRAYS = 8  # of one shape in the pool


def submit_range(pool: ThreadPool, function: Callable[[int], None], number: int, threads: int) -> list[Future[None]]:
    """Submits function(0) ... function(number - 1) in chunks to a pool of so many threads."""
    size = -(-number // (_CHUNKS_PER_THREAD * threads))

    def run_chunk(start: int) -> None:
        for i in range(start, min(start + size, number)):
            function(i)

    return [pool.submit(run_chunk, start) for start in range(0, number, size)]


def _reference_counts(arrays: list[NDArray[Any]]) -> list[int]:
    return [sys.getrefcount(array) for array in arrays]


_UNUSED = _reference_counts([np.empty(1)])[0]  # the count of an array that no tensor shares memory with


class ArrayPool:
    """Arrays that are reused once no tensor shares their memory: new memory takes the system 0.1 ms per image."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[int, ...], list[NDArray[np.float32]]] = {}
        self._lock = Lock()

    def take(self, *shape: int) -> NDArray[np.float32]:
        """Returns an array of a shape; its values are arbitrary."""
        with self._lock:
            arrays = self._arrays.setdefault(shape, [])
            for i, count in enumerate(_reference_counts(arrays)):
                if count == _UNUSED:
                    return arrays[i]
            arrays[:] = [*arrays[1 - _MAX_ARRAYS :], np.empty(shape, np.float32)]
            return arrays[-1]


class BatchBuffer(Protocol):
    """A batch that is being filled: `batch_size` crops of `size` pixels a side, of images as the set stores them."""

    def write(self, i: int, image: Any, window: Window, flip: bool) -> None:
        """Sets sample i to the window of an image: uint8 (H, W, 3) in sRGB, or (3, H, W) in Lab."""

    def finish(self) -> tuple[Tensor, Tensor]:
        """Returns L (B, 1, S, S) and ab (B, 2, S, S), float32, after all samples are written."""


def resize(image: Pixels, size: int, *, is_planar: bool) -> Pixels:
    """Returns an image (H, W, 3), or planar (3, H, W), at size x size by an antialiasing linear filter, like DALI's.

    torch's uint8 kernel takes a fifth of the time of DALI's on a CPU (docs/performance.md).
    """
    planes = torch.from_numpy(image if image.flags.writeable else image.copy())[None]
    if not is_planar:
        planes = planes.permute(0, 3, 1, 2)  # channels_last, and so is the result
    small = interpolate(planes, size=(size, size), mode="bilinear", antialias=True)
    return np.ascontiguousarray((small if is_planar else small.permute(0, 2, 3, 1))[0].numpy())


class CpuBatchBuffer:
    """A batch on the CPU; each sample becomes Lab as it is written."""

    def __init__(self, batch_size: int, size: int, store: Store, pool: ArrayPool) -> None:
        from ..imaging import kernels  # slow to import: Numba

        converters = {"jpeg": kernels.rgb_crop_to_lab, "lab": kernels.lab_uint8_crop_to_lab}
        self._to_lab: Callable[..., None] = converters[store]
        self._size, self._is_planar = size, store == "lab"
        self._L = torch.from_numpy(pool.take(batch_size, 1, size, size))
        self._ab = torch.from_numpy(pool.take(batch_size, 2, size, size))

    def write(self, i: int, image: Pixels, window: Window, flip: bool) -> None:
        top, left, height, width = window
        if (height, width) != (self._size, self._size):
            part = crop(image, window, self._is_planar)
            image, top, left = resize(part, self._size, is_planar=self._is_planar), 0, 0
        self._to_lab(image, top, left, flip, self._L[i, 0].numpy(), self._ab[i].numpy())

    def finish(self) -> tuple[Tensor, Tensor]:
        return self._L, self._ab


class DeviceBatchBuffer:
    """Bytes in pinned memory. They are copied on a stream of their own, beside the device's other work."""

    def __init__(self, batch_size: int, size: int, store: Store, device: torch.device, to_lab: LabConverter) -> None:
        self._size, self._is_planar, self._device, self._to_lab = size, store == "lab", device, to_lab
        shape = (batch_size, 3, size, size) if self._is_planar else (batch_size, size, size, 3)
        self._bytes = torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")

    def write(self, i: int, image: Pixels, window: Window, flip: bool) -> None:
        part = crop(image, window, self._is_planar)
        if window[2:] != (self._size, self._size):
            part = resize(part, self._size, is_planar=self._is_planar)
        if flip:
            part = part[..., ::-1] if self._is_planar else part[:, ::-1]
        self._bytes[i].numpy()[...] = part

    def copy(self) -> Tensor:
        """Returns the bytes on the device."""
        if self._device.type != "cuda":
            return self._bytes.to(self._device)
        copy_stream, current_stream = _copy_stream(self._device), torch.cuda.current_stream(self._device)
        with torch.cuda.stream(copy_stream):
            on_device = self._bytes.to(self._device, non_blocking=True)
        current_stream.wait_stream(copy_stream)
        on_device.record_stream(current_stream)
        return on_device

    def finish(self) -> tuple[Tensor, Tensor]:
        return self._to_lab(self.copy())


class DeviceImageBuffer:
    """Images on the device, uint8 tensors (H, W, 3) or (3, H, W); they are cropped and resized there."""

    def __init__(self, batch_size: int, size: int, store: Store, to_lab: LabConverter) -> None:
        self._size, self._is_planar, self._to_lab = size, store == "lab", to_lab
        self._samples: list[Any] = [None] * batch_size

    def write(self, i: int, image: Any, window: Window, flip: bool) -> None:
        part = crop(image, window, self._is_planar)
        planes = part if self._is_planar else part.permute(2, 0, 1)
        if window[2:] != (self._size, self._size):
            shape = (self._size, self._size)
            small = interpolate(planes[None].float(), size=shape, mode="bilinear", antialias=True)[0]
            planes = small.round().clamp(0, 255).byte()  # rounded as by the other buffers
        self._samples[i] = planes.flip(2) if flip else planes

    def finish(self) -> tuple[Tensor, Tensor]:
        planes = torch.stack(self._samples)
        return self._to_lab(planes if self._is_planar else planes.permute(0, 2, 3, 1))


@lru_cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """Returns the stream on which batches are copied to a device."""
    return torch.cuda.Stream(device)


def crop(image: Pixels, window: Window, is_planar: bool) -> Any:
    """Returns the window of an image as a view."""
    top, left, height, width = window
    rows, columns = slice(top, top + height), slice(left, left + width)
    return image[:, rows, columns] if is_planar else image[rows, columns]
