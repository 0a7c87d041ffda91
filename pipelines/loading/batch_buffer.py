"""Where decoded pictures become a batch in Lab: threads put each in its place, cut, resized and mirrored."""

# Shapes: B samples, S pixels a side; H W of a decoded picture. Windows are top, left, height, width in pixels.

import sys
from collections.abc import Callable
from functools import lru_cache
from threading import Lock
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from ..shards import Store

Pixels = NDArray[np.uint8]
Convert = Callable[[Tensor], tuple[Tensor, Tensor]]

_MAX_BUFFERS = 8


def _references(buffers: list[NDArray[Any]]) -> list[int]:
    return [sys.getrefcount(buffer) for buffer in buffers]


_UNUSED = _references([np.empty(1)])[0]  # when no tensor has one


class Buffers:
    """Memory for batches, used again when nobody holds them any more: for new, the system takes 0.1 ms per image."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], list[NDArray[np.float32]]] = {}
        self._lock = Lock()

    def take(self, *shape: int) -> NDArray[np.float32]:
        """An array of a shape, its values whatever they were."""
        with self._lock:
            known = self._known.setdefault(shape, [])
            for number, references in enumerate(_references(known)):
                if references == _UNUSED:
                    return known[number]
            known[:] = [*known[1 - _MAX_BUFFERS :], np.empty(shape, np.float32)]
            return known[-1]


class BatchBuffer(Protocol):
    """A batch in the making."""

    def put(self, place: int, picture: Any, window: tuple[int, int, int, int], mirrored: bool) -> None:
        """Sets sample `place` to the window of the picture (uint8 (H, W, 3) of sRGB, or (3, H, W) of Lab codes)."""

    def lab(self) -> tuple[Tensor, Tensor]:
        """L (B, 1, S, S) and ab (B, 2, S, S), float32, when all is put."""


class BatchBuffers:
    """Makes the canvases of a loader.

    Args:
        size: Side of the batches in pixels.
        store: How the pictures are stored.
        device: Where the batches are to be.
        convert: What makes Lab of them on a device that is no CPU (color.converter).
    """

    def __init__(self, size: int, store: Store, device: torch.device, convert: Convert) -> None:
        self._size, self._store, self._device, self._convert = size, store, device, convert
        self._buffers = Buffers()

    def blank(self, number: int) -> BatchBuffer:
        """An empty canvas for a batch of `number` samples."""
        if self._device.type == "cpu":
            return CpuBatchBuffer(number, self._size, self._store, self._buffers)
        return DeviceBatchBuffer(number, self._size, self._store, self._device, self._convert)

    def for_device(self, number: int) -> BatchBuffer:
        """The same, for pictures that are on the device already."""
        return DeviceImageBuffer(number, self._size, self._store, self._convert)


def resized(picture: Pixels, size: int, *, is_planar: bool) -> Pixels:
    """A picture (H, W, 3), or planar (3, H, W), at size x size by an antialiasing linear filter, as DALI's.

    By torch's kernel for bytes, which takes a fifth of the time of DALI's on a CPU (docs/performance.md).
    """
    planes = torch.from_numpy(picture if picture.flags.writeable else picture.copy())[None]
    if not is_planar:
        planes = planes.permute(0, 3, 1, 2)  # channels last, which the result then is too
    small = interpolate(planes, size=(size, size), mode="bilinear", antialias=True)
    return np.ascontiguousarray((small if is_planar else small.permute(0, 2, 3, 1))[0].numpy())


class CpuBatchBuffer:
    def __init__(self, number: int, size: int, store: Store, buffers: Buffers) -> None:
        from ..imaging import kernels  # Numba takes its time to load

        convert = {"jpeg": kernels.rgb_window_to_lab, "lab": kernels.codes_window_to_lab}
        self._convert: Callable[..., None] = convert[store]
        self._size, self._is_planar = size, store == "lab"
        self._L = torch.from_numpy(buffers.take(number, 1, size, size))
        self._ab = torch.from_numpy(buffers.take(number, 2, size, size))

    def put(self, place: int, picture: Pixels, window: tuple[int, int, int, int], mirrored: bool) -> None:
        top, left, height, width = window
        if (height, width) != (self._size, self._size):
            part = cut(picture, window, self._is_planar)
            picture, top, left = resized(part, self._size, is_planar=self._is_planar), 0, 0
        self._convert(picture, top, left, mirrored, self._L[place, 0].numpy(), self._ab[place].numpy())

    def lab(self) -> tuple[Tensor, Tensor]:
        return self._L, self._ab


class DeviceBatchBuffer:
    """Bytes in pinned memory, which travel and become Lab beside whatever else the device does."""

    def __init__(self, number: int, size: int, store: Store, device: torch.device, convert: Convert) -> None:
        self._size, self._is_planar, self._device, self._convert = size, store == "lab", device, convert
        shape = (number, 3, size, size) if self._is_planar else (number, size, size, 3)
        self._bytes = torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")

    def put(self, place: int, picture: Pixels, window: tuple[int, int, int, int], mirrored: bool) -> None:
        part = cut(picture, window, self._is_planar)
        if window[2:] != (self._size, self._size):
            part = resized(part, self._size, is_planar=self._is_planar)
        if mirrored:
            part = part[..., ::-1] if self._is_planar else part[:, ::-1]
        self._bytes[place].numpy()[...] = part

    def lab(self) -> tuple[Tensor, Tensor]:
        if self._device.type != "cuda":
            return self._convert(self._bytes.to(self._device))
        ours, theirs = _copying(self._device), torch.cuda.current_stream(self._device)
        with torch.cuda.stream(ours):
            there = self._bytes.to(self._device, non_blocking=True)
        theirs.wait_stream(ours)
        there.record_stream(theirs)
        return self._convert(there)


class DeviceImageBuffer:
    """Pictures that are on the device already, uint8 tensors (H, W, 3) or (3, H, W); they are cut and resized there."""

    def __init__(self, number: int, size: int, store: Store, convert: Convert) -> None:
        self._size, self._is_planar, self._convert = size, store == "lab", convert
        self._pictures: list[Any] = [None] * number

    def put(self, place: int, picture: Any, window: tuple[int, int, int, int], mirrored: bool) -> None:
        part = cut(picture, window, self._is_planar)
        planes = part if self._is_planar else part.permute(2, 0, 1)
        if window[2:] != (self._size, self._size):
            shape = (self._size, self._size)
            small = interpolate(planes[None].float(), size=shape, mode="bilinear", antialias=True)[0]
            planes = small.round().clamp(0, 255).byte()  # as every other way rounds
        self._pictures[place] = planes.flip(2) if mirrored else planes

    def lab(self) -> tuple[Tensor, Tensor]:
        planes = torch.stack(self._pictures)
        return self._convert(planes if self._is_planar else planes.permute(0, 2, 3, 1))


@lru_cache
def _copying(device: torch.device) -> torch.cuda.Stream:
    """The stream on which batches travel to a device."""
    return torch.cuda.Stream(device)


def cut(picture: Pixels, window: tuple[int, int, int, int], is_planar: bool) -> Any:
    """The window of a picture, without a copy."""
    top, left, height, width = window
    rows, columns = slice(top, top + height), slice(left, left + width)
    return picture[:, rows, columns] if is_planar else picture[rows, columns]
