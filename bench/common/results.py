"""Results of a benchmark: printed as a table and a verdict, written as JSON."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import Box
from rich.table import Column, Table

from ...engine.configuration.config import to_plain_dict
from ...engine.console import print_table, say
from ...engine.provenance import provenance
from ...pipelines.output_dir import write_json
from ...pipelines.system import available_cpus, processor_name

if TYPE_CHECKING:
    import torch

Results = dict[str, Any]  # the keys of `make_results`, and those that a benchmark adds

_WIDTH = 180  # of tables that are not printed to a terminal


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
    results: Results, out: Path | None, *, notes: Callable[[Results], Iterable[str]] = lambda results: ()
) -> None:
    """Prints the rows, the verdict and the notes; writes the results to `out`."""
    for rows in (results[name] for name in ("rows", "stages") if name in results):
        print_table(make_table(rows), width=_WIDTH)
        say("")
    say(results["verdict"])
    for note in notes(results):
        say(f"  {note}")
    if out:
        write_json(out, results)


def make_table(rows: list[dict[str, Any]], box: Box | None = None) -> Table:
    """Returns a table with a column for each key whose values are numbers or text."""
    columns = {key: [row.get(key) for row in rows] for key in dict.fromkeys(key for row in rows for key in row)}
    shown = [
        key
        for key, values in columns.items()
        if any(value is not None for value in values) and not any(isinstance(value, dict | list) for value in values)
    ]
    headings = (key.replace("_", " ").replace("(", " (") for key in shown)  # which can be wrapped at spaces
    table = Table(*(Column(heading, overflow="fold") for heading in headings), box=box, header_style="bold")
    for row in rows:
        table.add_row(*(_text(row.get(key)) for key in shown))
    return table


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", r"\|")
