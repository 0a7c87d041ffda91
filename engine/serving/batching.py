"""Dynamic batching: requests that arrive together go through a network together, in one thread."""

import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition, Thread

import torch

from ...models import Colorizer
from ...pipelines.imaging.decode import reduced_size
from ..colorization.colorize import ColorizedImage, colorize
from ..colorization.pixels import Pixels

MAX_INPUT_PIXELS = 1 << 21  # of a batch: the published network takes about 1 KB for each
_BATCH_WINDOW = 0.005  # seconds that the first request of a batch waits for others


@dataclass(frozen=True, kw_only=True, eq=False)
class InferenceRequest:
    """An image for a model to colorize; `size` is the short side of the network's input, None for full size."""

    model: str
    pixels: Pixels
    size: int | None
    future: Future[ColorizedImage] = field(default_factory=Future)

    @property
    def input_pixels(self) -> int:
        """The number of pixels of the network's input."""
        return input_pixels((self.pixels.shape[1], self.pixels.shape[0]), self.size)


def input_pixels(size: tuple[int, int], short_side: int | None) -> int:
    """Returns the pixels of the network's input for an image (width, height) reduced to a short side."""
    width, height = reduced_size(size, short_side)
    return width * height


class Batcher:
    """Runs requests in the order of their arrival, each with later ones that fit into its batch."""

    def __init__(self, models: Mapping[str, Colorizer], device: torch.device) -> None:
        self._models, self._device = models, device
        self._queue: list[InferenceRequest] = []
        self._closed = False
        self._changed = Condition()
        self._thread = Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, request: InferenceRequest) -> Future[ColorizedImage]:
        """Queues a request; returns its future."""
        with self._changed:
            self._queue.append(request)
            self._changed.notify()
        return request.future

    def close(self) -> None:
        """Ends the thread after the queued requests, but waits for at most a second."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout=1)

    def _work(self) -> None:
        while batch := self._next_batch():
            self._run([request for request in batch if request.future.set_running_or_notify_cancel()])
            del batch  # its pixels, and its results, before it waits

    def _next_batch(self) -> list[InferenceRequest]:
        """Waits for the first request and returns its batch; empty when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
        time.sleep(_BATCH_WINDOW)
        with self._changed:
            batch: list[InferenceRequest] = []
            num_pixels = 0
            for request in self._queue:
                is_alike = bool(batch) and (request.model, request.size) == (batch[0].model, batch[0].size)
                if not batch or (is_alike and num_pixels + request.input_pixels <= MAX_INPUT_PIXELS):
                    batch.append(request)
                    num_pixels += request.input_pixels
            self._queue = [request for request in self._queue if request not in batch]
            return batch

    def _run(self, batch: list[InferenceRequest]) -> None:
        if not batch:
            return
        try:
            model, images = self._models[batch[0].model], [request.pixels for request in batch]
            results = colorize(model, images, size=batch[0].size, device=self._device)
        except Exception as error:
            if len(batch) == 1:
                batch[0].future.set_exception(error)
            else:  # one image may be the cause, or the size of the batch
                for request in batch:
                    self._run([request])
        else:
            for request, result in zip(batch, results, strict=True):
                request.future.set_result(result)
