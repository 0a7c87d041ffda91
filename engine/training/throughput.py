"""Throughput of training, and the time it waits for data."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor

from ..checkpoints.checkpoint import Totals


@dataclass(kw_only=True)
class _Period:
    """Counts since the last report."""

    values: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    images: int = 0
    waited: float = 0.0
    events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)


class ThroughputMeter:
    """Counts steps, photographs, losses and time between two reports; time in `paused` does not count.

    Args:
        device: Device of this process.
        peak_seconds_per_image: Seconds that a photograph takes at the device's peak, to compute the MFU.
    """

    def __init__(self, device: torch.device, peak_seconds_per_image: float | None = None) -> None:
        self.totals = Totals()
        self._device = device
        self._peak_seconds_per_image = peak_seconds_per_image
        self._period = _Period()

    def start(self) -> None:
        """Starts the clock."""
        self._period = _Period()

    @contextmanager
    def data_wait(self) -> Iterator[None]:
        """Counts the time inside as waiting for data: for decoding, and for the conversion to Lab.

        On a GPU, the time runs from the end of the previous step to the batch's arrival, by the GPU's clock: the host
        runs ahead, and its waiting costs nothing while the GPU is computing.
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
        """Does not count the time inside."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # steps that are still running count as training
        started = time.perf_counter()
        yield
        self._period.started += time.perf_counter() - started

    def update(self, losses: dict[str, Tensor], images: int) -> None:
        """Adds a step of `images` photographs over all processes.

        `losses` holds `loss`, `grad_norm` and `counted`, which is 0 for a skipped step and else 1.
        """
        period = self._period
        for name, value in losses.items():  # summed on the device: no synchronisation
            period.values[name] = period.values[name] + value if name in period.values else value
        period.steps += 1
        period.images += images

    def compute(self, accelerator: Accelerator) -> dict[str, float]:
        """Returns the means since the last report, losses over all processes; adds to the totals and starts anew."""
        period = self._period
        # The only place where the host waits for the device and for the other processes.
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
        throughput = period.images / seconds
        skipped = {"steps/skipped": period.steps - counted} if counted < period.steps else {}
        values = {
            **skipped,
            **{f"train/{name}": value for name, value in means.items()},
            "optim/grad_norm": norm,
            "throughput(img/s)": throughput,
            "throughput/device(img/s)": throughput / accelerator.num_processes,
            "time/data_wait(%)": 100 * waited / seconds,
        }
        if self._peak_seconds_per_image:
            values["compute/mfu(%)"] = 100 * self._peak_seconds_per_image * throughput / accelerator.num_processes
        if self._device.type == "cuda":
            values["memory/peak(GiB)"] = torch.cuda.max_memory_allocated(self._device) / 2**30
        return values
