"""Limits the pixels that requests hold in memory."""

import asyncio
import ctypes
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import torch


class MemoryLimiter:
    """A number of pixels that may be in memory at once, granted in the order of requests."""

    def __init__(self, max_pixels: int) -> None:
        self._free = max_pixels
        self._turn, self._changed = asyncio.Lock(), asyncio.Condition()

    @asynccontextmanager
    async def hold(self, pixels: int) -> AsyncGenerator[None]:
        """Waits until so many pixels are free, and holds them; `pixels` must not exceed the limit."""
        async with self._turn, self._changed:
            await self._changed.wait_for(lambda: pixels <= self._free)
            self._free -= pixels
        try:
            yield
        finally:
            async with self._changed:
                self._free += pixels
                self._changed.notify_all()


def release_memory() -> None:
    """Returns freed memory to the system; the C library would keep it, and torch would keep that of a GPU."""
    with suppress(AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
