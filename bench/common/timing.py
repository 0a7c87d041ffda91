"""Timing. What is compared is measured in turn, round after round, so that a busy machine slows all of it alike."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MIN_ROUNDS = 3


class Clock:
    """Measures laps in seconds; each lap waits until the device has finished its work."""

    def __init__(self, device: "torch.device") -> None:
        self._device = device
        self.lap()

    def lap(self) -> float:
        if self._device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        seconds, self._last = now - getattr(self, "_last", now), now
        return seconds


def collect(
    rounds: Iterator[dict[str, float]],
    seconds: float,
    save: Callable[[dict[str, list[float]]], None] = lambda times: None,
) -> dict[str, list[float]]:
    """Returns the times by name of all rounds in so many seconds, at least 3 rounds, after a warm-up round.

    `save` is called with the times so far after each round.
    """
    next(rounds)
    deadline = time.perf_counter() + seconds
    times: dict[str, list[float]] = {}
    for number, round_ in enumerate(rounds, start=1):
        for name, value in round_.items():
            times.setdefault(name, []).append(value)
        save(times)
        if number >= MIN_ROUNDS and time.perf_counter() > deadline:
            break
    return times


def interleave(functions: dict[str, Callable[[], Any]], device: "torch.device") -> Iterator[dict[str, float]]:
    """Yields endless rounds: the seconds of one call of each function."""
    clock = Clock(device)
    while True:
        times = {}
        for name, function in functions.items():
            clock.lap()
            function()
            times[name] = clock.lap()
        yield times


def throughputs(seconds_per_image: Sequence[float]) -> dict[str, float]:
    """Returns the median, smallest and largest images per second, as columns of a row."""
    return {
        "median(img/s)": 1 / statistics.median(seconds_per_image),
        "min(img/s)": 1 / max(seconds_per_image),
        "max(img/s)": 1 / min(seconds_per_image),
    }
