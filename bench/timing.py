"""How times are taken, on what, and how they are shown.

What is compared is measured in turn, round after round, so that a machine's moods fall on all of it alike. Each figure
is the median over the rounds, with the smallest and the largest beside it.
"""

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from rich.console import Console
from rich.table import Table

from ..engine.config import plain
from ..engine.doctor import versions
from ..engine.parser import parse_options
from ..pipelines.threads import own_cores

_MIN_ROUNDS = 3


class Config(Protocol):
    """What every benchmark is told: where its figures go."""

    @property
    def out(self) -> Path | None:
        """File for the figures as JSON."""


C = TypeVar("C", bound=Config)


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


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu": platform.processor() or platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": own_cores(),
        "torch_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


def collect(rounds: Iterator[dict[str, float]], seconds: float) -> dict[str, list[float]]:
    """The seconds that each thing took in each round, for so long and at least 3 rounds, after one to warm up."""
    next(rounds)
    deadline = time.perf_counter() + seconds
    times: dict[str, list[float]] = {}
    for number, taken in enumerate(rounds, start=1):
        for name, value in taken.items():
            times.setdefault(name, []).append(value)
        if number >= _MIN_ROUNDS and time.perf_counter() > deadline:
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


def figures(config: Config, device: torch.device, rows: list[Any], verdict: str) -> dict[str, Any]:
    """What a benchmark found, on what, and with which settings."""
    return {
        "machine": machine(device),
        "versions": versions(),
        "settings": plain(config),
        "rows": rows,
        "verdict": verdict,
    }


def run(
    argv: list[str],
    config_class: type[C],
    measure: Callable[[C], dict[str, Any]],
    *,
    module: str,
    show: Callable[[list[Any]], Table],
    positional: Iterable[str] = (),
) -> int:
    """A benchmark from its command line to its table, which `show` makes of its rows."""
    config = parse_options(config_class, argv, prog=f"python -m {module}", positional=positional)
    try:
        found = measure(config)
    except ValueError as error:
        Console(stderr=True).print(str(error), markup=False)
        return 1
    if config.out:
        config.out.write_text(json.dumps(found, indent=1) + "\n")
    Console(file=sys.stdout).print(show(found["rows"]))
    print(found["verdict"])
    return 0


def shares(name: str, median: str, share: str) -> Callable[[list[Any]], Table]:
    """How rows of `spread` are shown: the headings of what was measured, of its median and of its share."""

    def show(rows: list[Any]) -> Table:
        table = Table(name, median, "smallest", "largest", share, box=None, header_style="bold")
        for what, *milliseconds, percent, _ in (row.values() for row in rows):
            table.add_row(what, *(f"{value:.3f}" for value in milliseconds), f"{percent:.3g} %")
        return table

    return show
