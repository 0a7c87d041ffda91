"""Flags of training steps, read without waiting for the device."""

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

_LAG = 2  # steps that a GPU may be behind the host


class DeferredFlags(Generic[T]):
    """A queue of flags; all processes read the same flags at the same step."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._queue: deque[tuple[Tensor, torch.cuda.Event | None, T]] = deque()

    def push(self, flags: Tensor, item: T) -> None:
        """Appends the flags (F,) of a step, float32 on the device, with an item that belongs to them."""
        if not self._on_gpu:
            self._queue.append((flags, None, item))
            return
        on_host = torch.empty(flags.shape, pin_memory=True).copy_(flags, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        self._queue.append((on_host, copied, item))

    def pop_ready(self, *, wait: bool = False) -> Iterator[tuple[list[float], T]]:
        """Yields the flags that are old enough to have arrived on the host, or waits for all of them."""
        while len(self._queue) > (_LAG if self._on_gpu and not wait else 0):
            flags, copied, item = self._queue.popleft()
            if copied:
                copied.synchronize()
            yield flags.tolist(), item
