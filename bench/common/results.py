"""Results of a benchmark: printed as a table and a verdict, written as JSON, drawn as a chart."""

import platform
import re
import sys
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from rich.console import Console, RenderableType
from rich.table import Table

from ...engine.configuration.config import to_plain_dict
from ...engine.configuration.parser import parse_options
from ...engine.console import console
from ...engine.provenance import provenance
from ...pipelines.output_dir import check_output_file, write_json
from ...pipelines.system import available_cpus

if TYPE_CHECKING:
    import torch

Results = dict[str, Any]  # the keys of `make_results`, and those that a benchmark adds

_WIDTH = 140  # of tables that are not printed to a terminal


class Options(Protocol):
    """The options that every benchmark has."""

    @property
    def out(self) -> Path | None:
        """JSON file for the results."""


O = TypeVar("O", bound=Options)  # noqa: E741


def machine(device: "torch.device") -> dict[str, Any]:
    """Returns the machine's description for results."""
    import torch

    return {
        "cpu": _processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": available_cpus(),
        "torch_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


def _processor() -> str:
    """Returns the processor's model name as Linux or, elsewhere, Python reports it."""
    with suppress(OSError):
        if model := re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return model[1]
    return platform.processor() or platform.machine()


def make_results(options: Any, device: "torch.device", rows: list[Any], verdict: str) -> Results:
    """Returns the rows and the verdict with the commit, machine, versions and settings that they were measured with."""
    from ...engine.doctor import versions

    return {
        "provenance": provenance(),
        "machine": machine(device),
        "versions": versions(),
        "settings": to_plain_dict(options),
        "rows": rows,
        "verdict": verdict,
    }


def run_benchmark(
    argv: list[str],
    options_class: type[O],
    measure: Callable[[O], Results],
    *,
    prog: str,
    table: Callable[[Results], RenderableType],
    positional: Collection[str] = (),
) -> int:
    """Parses the command line of a module in dev, measures and reports; returns the exit code."""
    options = parse_options(options_class, argv, prog=prog, positional=positional)
    try:
        if options.out:
            check_output_file(options.out, ".json")
        results = measure(options)
    except ValueError as error:
        console.print(f"{prog}: {error}")
        return 1
    report(results, options.out, table=table)
    return 0


def report(
    results: Results,
    out: Path | None,
    *,
    table: Callable[[Results], RenderableType],
    notes: Callable[[Results], Iterable[str]] = lambda results: (),
    plot: Callable[[Results, Path], None] | None = None,
) -> None:
    """Prints the table, the verdict and the notes; writes the results to `out` and the chart beside it."""
    width = None if sys.stdout.isatty() else _WIDTH
    Console(file=sys.stdout, width=width).print(table(results))
    print(results["verdict"])
    for note in notes(results):
        print(f"  {note}")
    if out:
        write_json(out, results)
        if plot:
            plot(results, out.with_suffix(".png"))


def shares_table(name: str, median: str, share: str) -> Callable[[Results], RenderableType]:
    """Returns a function that makes a table of rows of `summarize` under these headings."""

    def table(results: Results) -> Table:
        lines = Table(name, median, "smallest", "largest", share, box=None, header_style="bold")
        for what, *milliseconds, percent, _ in (row.values() for row in results["rows"]):
            lines.add_row(what, *(f"{value:.3f}" for value in milliseconds), f"{percent:.3g} %")
        return lines

    return table


def spread_cells(row: dict[str, Any], unit: str = "img/s", digits: int = 0) -> list[str]:
    """Returns the cells for the median, smallest and largest of a row."""
    return [f"{row[f'{column}({unit})']:,.{digits}f}" for column in ("median", "min", "max")]


def error_bars(rows: Iterable[dict[str, Any]]) -> list[list[float]]:
    """Returns the lengths of matplotlib's error bars below and above the median images per second."""
    return [[abs(row[f"{end}(img/s)"] - row["median(img/s)"]) for row in rows] for end in ("min", "max")]
