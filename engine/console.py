"""What a person sees while something runs; all of it on stderr, so that results on stdout can be piped."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

_SILENCE = 60.0  # seconds between two lines of a log

console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)


def plural(number: int, noun: str, ending: str = "s") -> str:
    """Returns the number with the noun, which gets the ending unless the number is 1."""
    return f"{number:,} {noun}{'' if number == 1 else ending}"


@contextmanager
def progress_bar(what: str, unit: str = "", *, enabled: bool = True) -> Iterator[Callable[..., None]]:
    """A bar that is told (done, total) or (done, total, unit); a total that is None is not known yet.

    Where stderr is no terminal, a line now and then takes its place; nothing is shown if not `enabled`.
    """
    said = time.monotonic()
    with _bar(MofNCompleteColumn(), TextColumn("{task.fields[unit]}"), enabled=enabled) as bar:
        task = bar.add_task(what, total=None, unit=unit)

        def tell(done: int, total: int | None, unit: str = unit) -> None:
            nonlocal said
            bar.update(task, completed=done, total=total, unit=unit)
            if enabled and not console.is_terminal and time.monotonic() > said + _SILENCE:
                said = time.monotonic()
                console.print(f"{what}: {done:,}{'' if total is None else f' of {total:,}'} {unit}")

        yield tell


@contextmanager
def download_bar(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar in bytes, with their rate and the time left, that is told (done, total)."""
    with _bar(DownloadColumn(), TransferSpeedColumn()) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _bar(*columns: ProgressColumn, enabled: bool = True) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (enabled and console.is_terminal),
    )


class Line:
    """The line of every process but the first: nothing."""

    def step(self, step: int) -> None:
        """One more step is done."""

    def show(self, step: int, text: str) -> None:
        """There are new figures."""

    def close(self) -> None:
        """Ends the line."""


class LiveLine(Line):
    """One line that follows training: redrawn in a terminal, else printed anew."""

    def __init__(self, first: int, total: int) -> None:
        self._total = total
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
        self._bar.update(self._task, completed=step)

    def show(self, step: int, text: str) -> None:
        self._bar.update(self._task, completed=step, description=text)
        if not console.is_terminal:
            console.print(f"step {step}/{self._total}  {text}")

    def close(self) -> None:
        self._bar.stop()
