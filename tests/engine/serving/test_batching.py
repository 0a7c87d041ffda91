"""Batches of requests, and the memory that they wait for."""

import asyncio

import numpy as np
import torch
from photochrom.engine.serving.batching import Batcher, InferenceRequest
from photochrom.engine.serving.memory_limiter import MemoryLimiter
from photochrom.models import Colorizer, ColorPrediction

BAD_GREY = 200  # the grey of images at which Watched fails


class Watched(Colorizer):
    """Predicts grey, remembers the sizes of batches, fails at images of one bright grey."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, L: torch.Tensor) -> ColorPrediction:
        self.batches.append(len(L))
        if any(image.max() - image.min() < 1e-3 and image.max() > 60 for image in L):
            raise FloatingPointError("one grey")
        return ColorPrediction(output=torch.zeros(len(L), 2, 8, 8), input_size=(32, 32))


def test_requests_that_arrive_together_form_a_batch() -> None:
    watched = Watched()
    batcher = Batcher({"one": watched, "two": watched}, torch.device("cpu"))
    noise = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    requests = [InferenceRequest(model="two" if i == 7 else "one", pixels=noise[i], size=32) for i in range(8)]
    for future in [batcher.submit(request) for request in requests]:
        assert future.result(timeout=30).pixels.shape == (64, 64, 3)
    assert watched.batches == [7, 1]
    noise[3] = BAD_GREY
    futures = [batcher.submit(InferenceRequest(model="one", pixels=noise[i], size=32)) for i in range(5)]
    assert [type(future.exception(timeout=30)) for future in futures].count(FloatingPointError) == 1
    assert watched.batches[2:] == [5, 1, 1, 1, 1, 1]
    batcher.close()


def test_the_limit_of_a_batch() -> None:
    watched = Watched()
    watched.forward = lambda L: (
        watched.batches.append(len(L))
        or ColorPrediction(  # type: ignore[method-assign]
            output=torch.zeros(len(L), 2, 200, 200), input_size=(800, 800)
        )
    )
    batcher = Batcher({"one": watched}, torch.device("cpu"))
    image = np.zeros((800, 800, 3), np.uint8)
    for future in [batcher.submit(InferenceRequest(model="one", pixels=image, size=None)) for _ in range(4)]:
        future.result(timeout=60)
    assert watched.batches == [3, 1]
    batcher.close()


def test_memory_is_granted_in_turn() -> None:
    async def run() -> list[int]:
        limiter, order = MemoryLimiter(10), []

        async def ask(number: int, pixels: int) -> None:
            async with limiter.hold(pixels):
                order.append(number)
                await asyncio.sleep(0.01)

        await asyncio.gather(*(ask(number, pixels) for number, pixels in enumerate([6, 10, 1, 1, 8])))
        assert limiter._free == 10
        return order

    assert asyncio.run(run()) == [0, 1, 2, 3, 4]
