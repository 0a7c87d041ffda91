"""How fast training is, and how long it waits for data."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor


class Meter:
    """Counts steps, photographs, loss and time between two readings; what happens while paused does not count."""

    def __init__(self) -> None:
        self.images = 0
        self.seconds = 0.0
        self.waited = 0.0
        self._loss: Tensor | None = None
        self._steps = self._images = 0
        self._waited = 0.0
        self._started = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """What happens inside is waiting for data."""
        started = time.perf_counter()
        yield
        self._waited += time.perf_counter() - started

    @contextmanager
    def paused(self, device: torch.device) -> Iterator[None]:
        """What happens inside is not training."""
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # the steps that are still under way are training
        started = time.perf_counter()
        yield
        self._started += time.perf_counter() - started

    def count(self, loss: Tensor, images: int) -> None:
        """One more step."""
        self._loss = loss if self._loss is None else self._loss + loss  # on the device: no synchronisation
        self._steps += 1
        self._images += images

    def read(self, accelerator: Accelerator) -> dict[str, float]:
        """The means since the last reading, over all processes; adds them to the totals and begins anew."""
        assert self._loss is not None
        # The one place where the host waits for the device, and for the other processes.
        loss = float(accelerator.reduce(self._loss / self._steps, "mean"))
        seconds = time.perf_counter() - self._started
        means = {
            "train/loss": loss,
            "throughput(img/s)": self._images / seconds,
            "time/data_wait(%)": 100 * self._waited / seconds,
        }
        self.images += self._images
        self.seconds += seconds
        self.waited += self._waited
        self._loss, self._steps, self._images, self._waited = None, 0, 0, 0.0
        self._started = time.perf_counter()
        return means
