"""Results of a benchmark: printed as a table and a verdict, written as JSON."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType

from ...engine.configuration.config import to_plain_dict
from ...engine.provenance import provenance
from ...pipelines.output_dir import write_json
from ...pipelines.system import available_cpus, processor_name

if TYPE_CHECKING:
    import torch

Results = dict[str, Any]  # the keys of `make_results`, and those that a benchmark adds

_WIDTH = 140  # of tables that are not printed to a terminal


def machine(device: "torch.device") -> dict[str, Any]:
    """Returns the machine's description for results."""
    import torch

    return {
        "cpu": processor_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": available_cpus(),
        "torch_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


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


def report(
    results: Results,
    out: Path | None,
    *,
    table: Callable[[Results], RenderableType],
    notes: Callable[[Results], Iterable[str]] = lambda results: (),
) -> None:
    """Prints the table, the verdict and the notes; writes the results to `out`."""
    width = None if sys.stdout.isatty() else _WIDTH
    Console(file=sys.stdout, width=width).print(table(results))
    print(results["verdict"])
    for note in notes(results):
        print(f"  {note}")
    if out:
        write_json(out, results)


def spread_cells(row: dict[str, Any], unit: str = "img/s", digits: int = 0) -> list[str]:
    """Returns the cells for the median, smallest and largest of a row."""
    return [f"{row[f'{column}({unit})']:,.{digits}f}" for column in ("median", "min", "max")]
