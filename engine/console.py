"""Progress and messages for a person; all on stderr, so that results on stdout can be piped."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LOG_INTERVAL = 60.0  # seconds between two lines where stderr is not a terminal

console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)


def plural(number: int, noun: str, ending: str = "s") -> str:
    """Returns the number with the noun, which gets the ending unless the number is 1."""
    return f"{number:,} {noun}{'' if number == 1 else ending}"


@contextmanager
def progress_bar(what: str, unit: str = "", *, enabled: bool = True) -> Iterator[Callable[..., None]]:
    """Shows a bar and yields its update(done, total) or (done, total, unit); a total of None is not known yet.

    Where stderr is not a terminal, prints a line every minute instead. Shows nothing unless `enabled`.
    """
    last_print = time.monotonic()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[unit]}")
    is_hidden = not (enabled and console.is_terminal)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=is_hidden) as bar:
        task = bar.add_task(what, total=None, unit=unit)

        def update(done: int, total: int | None, unit: str = unit) -> None:
            nonlocal last_print
            bar.update(task, completed=done, total=total, unit=unit)
            if enabled and not console.is_terminal and time.monotonic() > last_print + _LOG_INTERVAL:
                last_print = time.monotonic()
                console.print(f"{what}: {done:,}{'' if total is None else f' of {total:,}'} {unit}")

        yield update


class LiveLine:
    """The progress line of training: redrawn in a terminal, else printed for every report and validation."""

    def __init__(self, first: int, total: int) -> None:
        self._total, self._shown = total, {"metrics": "", "validation": ""}
        columns = (
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("", completed=first, total=total)
        self._bar.start()

    def step(self, step: int) -> None:
        """Shows that a step is done."""
        self._bar.update(self._task, completed=step)

    def show(self, step: int, text: str, what: Literal["metrics", "validation"] = "metrics") -> None:
        """Shows new metrics or a new validation; in a terminal, beside the newest of the other."""
        self._shown[what] = text
        self._bar.update(self._task, completed=step, description="  ".join(filter(None, self._shown.values())))
        if not console.is_terminal:
            console.print(f"step {step}/{self._total}  {text}")

    def close(self) -> None:
        """Ends the line."""
        self._bar.stop()
