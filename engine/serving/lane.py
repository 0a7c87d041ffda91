"""A lane of requests. Small images have a lane of their own, so that they never wait for large ones."""

from collections.abc import Callable, Mapping

import torch

from ...models import Colorizer
from ...pipelines.packing.worker_pool import Workers
from .batching import Batcher
from .decoding import DecodeResult, DecodeTask
from .memory_limiter import MemoryLimiter


class Lane:
    """Decoder processes, a limit of the pixels in memory, and a thread of the networks."""

    def __init__(
        self,
        models: Mapping[str, Colorizer],
        device: torch.device,
        decode: Callable[[DecodeTask], DecodeResult],
        decode_seconds: float,
        *,
        num_decoders: int,
        max_pixels: int,
    ) -> None:
        self.decoders = Workers(decode, number=num_decoders, seconds=decode_seconds)
        self.memory = MemoryLimiter(max_pixels)
        self.batcher = Batcher(models, device)

    def close(self) -> None:
        """Ends the processes and the thread."""
        self.decoders.close()
        self.batcher.close()
