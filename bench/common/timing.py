"""How times are taken.

What is compared is measured in turn, round after round, so that a machine's moods fall on all of it alike. Each figure
is the median over the rounds, with the smallest and the largest beside it.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

MIN_ROUNDS = 3


class Clock:
    """Laps in seconds; each ends when the device has done what it was told."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.lap()

    def lap(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        seconds, self._last = now - getattr(self, "_last", now), now
        return seconds


def collect(rounds: Iterator[dict[str, float]], seconds: float) -> dict[str, list[float]]:
    """The seconds that each thing took in each round, for so long and at least 3 rounds, after one to warm up."""
    next(rounds)
    deadline = time.perf_counter() + seconds
    times: dict[str, list[float]] = {}
    for number, taken in enumerate(rounds, start=1):
        for name, value in taken.items():
            times.setdefault(name, []).append(value)
        if number >= MIN_ROUNDS and time.perf_counter() > deadline:
            break
    return times


def turns(works: dict[str, Callable[[], None]], device: torch.device) -> Iterator[dict[str, float]]:
    """Endless rounds: the seconds that each work took once."""
    clock = Clock(device)
    while True:
        seconds = {}
        for name, work in works.items():
            clock.lap()
            work()
            seconds[name] = clock.lap()
        yield seconds


def spread(times: dict[str, list[float]], *, label: str, whole: Callable[[dict[str, float]], float]) -> list[Any]:
    """A row for each thing: median, smallest and largest in milliseconds, and the share of the `whole` of medians."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    return [
        {
            label: name,
            "median(ms)": 1e3 * medians[name],
            "min(ms)": 1e3 * min(values),
            "max(ms)": 1e3 * max(values),
            "share(%)": 100 * medians[name] / whole(medians),
            "num_rounds": len(values),
        }
        for name, values in times.items()
    ]
