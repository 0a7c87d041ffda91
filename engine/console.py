"""Text for a person: results on stdout, progress and messages on stderr.

Names of files, classes and models may come from anybody. What is not printable in them (control, escape and
bidirectional characters, newlines, bytes that are not UTF-8) is shown escaped: it can neither drive a terminal nor
forge a line. Addresses are shown without their secrets.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ..pipelines.address import hide_secrets

_LOG_INTERVAL = 60.0  # seconds between two lines where stderr is not a terminal


class SafeConsole(Console):
    """A console that prints each text as one line, without markup, and escapes what is not printable in it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:  # of everything printed, and of cells of tables
        return super().render_str(escape(text), **settings)


console = SafeConsole(stderr=True, soft_wrap=True)


def escape(text: str) -> str:
    """Returns a text with unprintable characters escaped as in Python's repr, and addresses without their secrets."""
    text = hide_secrets(text)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def one_line(text: str) -> str:
    """Joins the lines of a text, such as a library's message, into one line."""
    return " ".join(filter(None, map(str.strip, text.split("\n"))))


def say(line: object) -> None:
    """Prints a line of results on stdout. If its reader has left, as `head` does, the command goes on without it."""
    try:
        print(escape(str(line)), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_table(table: Table, *, width: int | None = None) -> None:
    """Prints a table on stdout; `width` is that of lines where stdout is not a terminal."""
    SafeConsole(width=None if sys.stdout.isatty() else width).print(table)


def plural(number: int, noun: str, ending: str = "s") -> str:
    """Returns the number with the noun, which gets the ending unless the number is 1."""
    return f"{number:,} {noun}{'' if number == 1 else ending}"


@contextmanager
def progress_bar(what: str, unit: str = "", *, enabled: bool = True) -> Iterator[Callable[..., None]]:
    """Shows a bar and yields its update(done, total) or (done, total, unit); a total of None is not known yet.

    Where stderr is not a terminal, prints a line every minute instead. Shows nothing unless `enabled`.
    """
    last_print = time.monotonic()
    texts = [TextColumn(f"{{task.{name}}}", markup=False) for name in ("description", "fields[unit]")]
    columns = texts[0], BarColumn(), MofNCompleteColumn(), texts[1]
    is_hidden = not (enabled and console.is_terminal)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=is_hidden) as bar:
        task = bar.add_task(escape(what), total=None, unit=unit)

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
            TextColumn("{task.description}", markup=False),
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
        self._bar.update(self._task, completed=step, description=escape("  ".join(filter(None, self._shown.values()))))
        if not console.is_terminal:
            console.print(f"step {step}/{self._total}  {text}")

    def close(self) -> None:
        """Ends the line."""
        self._bar.stop()
