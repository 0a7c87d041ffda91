"""What becomes of the figures of a benchmark: a table, a sentence, a JSON file, and a picture beside it."""

import platform
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from rich.console import Console, RenderableType
from rich.table import Table

from ...engine.configuration.config import to_plain_dict
from ...engine.configuration.parser import parse_options
from ...engine.console import console
from ...engine.doctor import versions
from ...pipelines.output_dir import check_output_file, write_json
from ...pipelines.system import available_cpus

Found = dict[str, Any]  # the figures of a benchmark, as `figures` puts them together


_WIDTH = 140  # where no terminal has one


class Config(Protocol):
    """What every benchmark is told: where its figures go."""

    @property
    def out(self) -> Path | None:
        """File for the figures as JSON."""


C = TypeVar("C", bound=Config)


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu": _processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": available_cpus(),
        "torch_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


def _processor() -> str:
    """The processor's model where Linux names it, as on PCs; what Python knows elsewhere."""
    with suppress(OSError):
        if named := re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return named[1]
    return platform.processor() or platform.machine()


def figures(config: Config, device: torch.device, rows: list[Any], verdict: str) -> Found:
    """What a benchmark found, on what, and with which settings."""
    return {
        "machine": machine(device),
        "versions": versions(),
        "settings": to_plain_dict(config),
        "rows": rows,
        "verdict": verdict,
    }


def run(
    argv: list[str],
    config_class: type[C],
    measure: Callable[[C], Found],
    *,
    prog: str,
    show: Callable[[Found], RenderableType],
    notes: Callable[[Found], Iterable[str]] = lambda found: (),
    draw: Callable[[Found, Path], None] | None = None,
    positional: Iterable[str] = (),
) -> int:
    """A benchmark from its command line to what `publish` makes of it; returns the exit code."""
    config = parse_options(config_class, argv, prog=prog, positional=positional)
    try:
        if config.out:
            check_output_file(config.out, ".json")
        found = measure(config)
    except ValueError as error:
        console.print(f"{prog}: {error}")
        return 1
    publish(found, config.out, show=show, notes=notes, draw=draw)
    return 0


def publish(
    found: Found,
    out: Path | None,
    *,
    show: Callable[[Found], RenderableType],
    notes: Callable[[Found], Iterable[str]] = lambda found: (),
    draw: Callable[[Found, Path], None] | None = None,
) -> None:
    """Prints what `show` makes a table of, the verdict and, below it, the notes; writes `out`, and draws beside it."""
    width = None if sys.stdout.isatty() else _WIDTH
    Console(file=sys.stdout, width=width).print(show(found))
    print(found["verdict"])
    for note in notes(found):
        print(f"  {note}")
    if out:
        write_json(out, found)
        if draw:
            draw(found, out.with_suffix(".png"))


def shares(name: str, median: str, share: str) -> Callable[[Found], RenderableType]:
    """How rows of `spread` are shown: the headings of what was measured, of its median and of its share."""

    def show(found: Found) -> Table:
        table = Table(name, median, "smallest", "largest", share, box=None, header_style="bold")
        for what, *milliseconds, percent, _ in (row.values() for row in found["rows"]):
            table.add_row(what, *(f"{value:.3f}" for value in milliseconds), f"{percent:.3g} %")
        return table

    return show
