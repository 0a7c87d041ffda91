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


class ThroughputMeter:
    """Counts steps, photographs, losses and time between two readings; what happens while paused does not count.

    Args:
        device: On which this process trains.
        use_per_image: Share of a second of one device's peak that a photograph takes, to tell what share of it is used.
    """

    def __init__(self, device: torch.device, use_per_image: float | None = None) -> None:
        self.totals = Totals()
        self._device = device
        self._use_per_image = use_per_image
        self._period = _Period()

    def start(self) -> None:
        """Time begins to count."""
        self._period = _Period()

    @contextmanager
    def data_wait(self) -> Iterator[None]:
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

    def update(self, losses: dict[str, Tensor], images: int) -> None:
        """One more step, of `images` photographs over all processes.

        One of `losses` is named loss, and one `counted`, 1 or 0 for a step whose losses do not count.
        """
        period = self._period
        for name, value in losses.items():  # summed on the device: no synchronisation
            period.values[name] = period.values[name] + value if name in period.values else value
        period.steps += 1
        period.images += images

    def compute(self, accelerator: Accelerator) -> dict[str, float]:
        """The means since the last reading, losses over all processes; adds to the totals and begins anew."""
        period = self._period
        # The one place where the host waits for the device, and for the other processes.
        summed = accelerator.reduce(torch.stack(list(period.values.values())), "mean").tolist()
        seconds = time.perf_counter() - period.started
        waited = period.waited + sum(before.elapsed_time(after) for before, after in period.events) / 1000
        sums = dict(zip(period.values, summed, strict=True))
        counted = sums.pop("counted")
        means = {name: value / counted if counted else math.nan for name, value in sums.items()}
        norm = means.pop("grad_norm")
        self.totals.loss = means["loss"]
        self.totals.images += period.images
        self.totals.seconds += seconds
        self.totals.waited += waited
        self._period = _Period()
        rate = period.images / seconds
        skipped = {"steps/skipped": period.steps - counted} if counted < period.steps else {}
        values = {
            **skipped,
            **{f"train/{name}": value for name, value in means.items()},
            "optim/grad_norm": norm,
            "throughput(img/s)": rate,
            "throughput/device(img/s)": rate / accelerator.num_processes,
            "time/data_wait(%)": 100 * waited / seconds,
        }
        if self._use_per_image:
            values["compute/mfu(%)"] = 100 * self._use_per_image * rate / accelerator.num_processes
        if self._device.type == "cuda":
            values["memory/peak(GiB)"] = torch.cuda.max_memory_allocated(self._device) / 2**30
        return values
