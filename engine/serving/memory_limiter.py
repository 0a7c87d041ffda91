"""How much may be in work at once."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class MemoryLimiter:
    """Pixels that may be in memory at once: who asks first is let in first, and waits until there is room."""

    def __init__(self, pixels: int) -> None:
        self._free = pixels
        self._turn, self._changed = asyncio.Lock(), asyncio.Condition()

    @asynccontextmanager
    async def hold(self, pixels: int) -> AsyncGenerator[None]:
        """Has room for so many pixels, of at most all that there are."""
        async with self._turn, self._changed:
            await self._changed.wait_for(lambda: pixels <= self._free)
            self._free -= pixels
        try:
            yield
        finally:
            async with self._changed:
                self._free += pixels
                self._changed.notify_all()
