"""How fast training is, and how long it waits for data."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor


@dataclass(kw_only=True)
class Totals:
    """What a run has done since it began, its stops left out; `loss` is the last one read."""

    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    loss: float = math.nan


@dataclass(kw_only=True)
class _Period:
    """What was counted since the last reading."""

    values: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    images: int = 0
    waited: float = 0.0
    events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)


class Meter:
    """Counts steps, photographs, losses and time between two readings; what happens while paused does not count."""

    def __init__(self, device: torch.device) -> None:
        self.totals = Totals()
        self._device = device
        self._period = _Period()

    def start(self) -> None:
        """Time begins to count."""
        self._period = _Period()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """What happens inside is waiting for data: for decoding that is behind, and for the conversion to Lab.

        On a GPU, the time counts from the end of the step before to the batch's arrival, by the GPU's own clock: the
        host runs ahead, and what it waits for while the GPU is at work costs nothing.
        """
        if self._device.type == "cuda":
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            yield
            after.record()
            self._period.events.append((before, after))
        else:
            started = time.perf_counter()
            yield
            self._period.waited += time.perf_counter() - started

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is not training."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # the steps that are still under way are training
        started = time.perf_counter()
        yield
        self._period.started += time.perf_counter() - started

    def count(self, losses: dict[str, Tensor], images: int) -> None:
        """One more step, of `images` photographs over all processes; one of `losses` is named loss."""
        period = self._period
        for name, value in losses.items():  # summed on the device: no synchronisation
            period.values[name] = period.values[name] + value if name in period.values else value
        period.steps += 1
        period.images += images

    def read(self, accelerator: Accelerator) -> dict[str, float]:
        """The means since the last reading, losses over all processes; adds to the totals and begins anew."""
        period = self._period
        # The one place where the host waits for the device, and for the other processes.
        summed = accelerator.reduce(torch.stack(list(period.values.values())) / period.steps, "mean").tolist()
        seconds = time.perf_counter() - period.started
        waited = period.waited + sum(before.elapsed_time(after) for before, after in period.events) / 1000
        means = dict(zip(period.values, summed, strict=True))
        self.totals.loss = means["loss"]
        self.totals.images += period.images
        self.totals.seconds += seconds
        self.totals.waited += waited
        self._period = _Period()
        return {
            **{f"train/{name}": value for name, value in means.items()},
            "throughput(img/s)": period.images / seconds,
            "time/data_wait(%)": 100 * waited / seconds,
        }
