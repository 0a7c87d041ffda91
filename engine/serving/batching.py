"""The networks' thread: what is asked for at nearly the same time goes through a network together."""

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

MAX_SEEN = 1 << 21  # pixels that a network sees at once: the published one takes about 1 KB for each
_PATIENCE = 0.005  # seconds that the first of a batch waits for others


@dataclass(frozen=True, kw_only=True, eq=False)
class InferenceRequest:
    """A picture that is to be colorized by a model, which sees it as `colorize` has it with this `size`."""

    model: str
    pixels: Pixels
    size: int | None
    future: Future[ColorizedImage] = field(default_factory=Future)

    @property
    def seen(self) -> int:
        """How many pixels the network sees."""
        return seen_pixels((self.pixels.shape[1], self.pixels.shape[0]), self.size)

    def goes_with(self, other: "InferenceRequest") -> bool:
        """Whether one call does for both."""
        return (self.model, self.size) == (other.model, other.size)


def seen_pixels(size: tuple[int, int], short_side: int | None) -> int:
    """How many pixels a network sees of a picture of a width and height that is reduced to a short side."""
    width, height = reduced_size(size, short_side)
    return width * height


class Batcher:
    """Fills orders as they come, but takes along with each the later ones that go with it."""

    def __init__(self, models: Mapping[str, Colorizer], device: torch.device) -> None:
        self._models, self._device = models, device
        self._waiting: list[InferenceRequest] = []
        self._closed = False
        self._changed = Condition()
        self._thread = Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, order: InferenceRequest) -> Future[ColorizedImage]:
        """Its picture, in time."""
        with self._changed:
            self._waiting.append(order)
            self._changed.notify()
        return order.future

    def close(self) -> None:
        """Ends the thread when all is done, without waiting for longer than a moment."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout=1)

    def _work(self) -> None:
        while batch := self._next():
            self._fill([order for order in batch if order.future.set_running_or_notify_cancel()])

    def _next(self) -> list[InferenceRequest]:
        """The first order and those that go with it; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
        time.sleep(_PATIENCE)
        with self._changed:
            batch: list[InferenceRequest] = []
            for order in self._waiting:
                if not batch or (order.goes_with(batch[0]) and sum(o.seen for o in [*batch, order]) <= MAX_SEEN):
                    batch.append(order)
            self._waiting = [order for order in self._waiting if order not in batch]
            return batch

    def _fill(self, orders: list[InferenceRequest]) -> None:
        if not orders:
            return
        try:
            pictures = [order.pixels for order in orders]
            first = orders[0]
            done = colorize(self._models[first.model], pictures, size=first.size, device=self._device)
        except Exception as error:
            if len(orders) == 1:
                orders[0].future.set_exception(error)
            else:  # it may be that of one alone, or of all at once
                for order in orders:
                    self._fill([order])
        else:
            for order, colored in zip(orders, done, strict=True):
                order.future.set_result(colored)
