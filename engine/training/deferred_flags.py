"""What all processes have all_reduce_max on, read without waiting for the device."""

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

_LAG = 2  # steps that a GPU may be behind


class DeferredFlags(Generic[T]):
    """Flags of steps, the same in all processes, which also read them at the same step."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._queue: deque[tuple[Tensor, torch.cuda.Event | None, T]] = deque()

    def push(self, flags: Tensor, subject: T) -> None:
        """The flags (F,) of a step, float32 on the device, and what they are about."""
        if not self._on_gpu:
            self._queue.append((flags, None, subject))
            return
        arriving = torch.empty(flags.shape, pin_memory=True).copy_(flags, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        self._queue.append((arriving, arrived, subject))

    def pop_ready(self, *, all_of_them: bool = False) -> Iterator[tuple[list[float], T]]:
        """What was cast long enough ago to have arrived, or all, if one may wait."""
        while len(self._queue) > (_LAG if self._on_gpu and not all_of_them else 0):
            flags, arrived, subject = self._queue.popleft()
            if arrived:
                arrived.synchronize()
            yield flags.tolist(), subject
