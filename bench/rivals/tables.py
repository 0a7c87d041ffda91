"""Tables and notes of the results."""

from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from ..common.results import Results
from .entries import RANDOM, SQUASH, STEP

_TITLES = {
    SQUASH: "the whole photograph, squashed",
    RANDOM: "random crops, flipped or not",
    STEP: "the training step",
}


def table(results: Results) -> RenderableType:
    """Returns a table of throughput for each job, and one of the data sets."""
    tables = (*_throughputs(results), _formats(results))
    return Group(*(part for table in tables for part in (table, "")))


def _throughputs(results: Results) -> Iterator[Table]:
    for job in dict.fromkeys(row["job"] for row in results["rows"]):
        table = Table(
            _TITLES[job], "images/s", "relative to the original", "CPU ms", "first batch", "error of L, ab", box=None
        )
        for row in (row for row in results["rows"] if row["job"] == job):
            cpu = _number(row["cpu(ms/img)"]) if "cpu(ms/img)" in row else ""
            first = f"{row['first_batch(s)']:.1f} s" if "first_batch(s)" in row else ""
            table.add_row(_name(row), _spread(row, "img/s"), _spread(row, "ratio"), cpu, first, _error(row))
        yield table


def _error(row: dict[str, Any]) -> str:
    """Returns the mean absolute errors of L and ab, or the part of the photograph that cannot be compared."""
    if "num_checked" not in row:
        return ""
    return f"{row['error_L']:.2f}, {row['error_ab']:.2f}" if "error_L" in row else str(row["crop"])


def _formats(results: Results) -> Table:
    table = Table("data set", "made by", "seconds", "MB", box=None)
    for made in results["formats"]:
        table.add_row(made["reads"], made["made_by"], f"{made['seconds']:.1f}", f"{made['MB']:.0f}")
    return table


def notes(results: Results) -> Iterator[str]:
    """Yields the entries that could not run, incomplete checks, and first losses."""
    reasons = [(f"{entry['loader']}:{entry['reads']}", entry["reason"]) for entry in results["skipped"]]
    for name, reason in dict.fromkeys(reasons):
        yield f"skipped: {name}: {reason}"
    for row in results["rows"]:
        if (number := row.get("num_checked", results["num_photographs"])) < results["num_photographs"]:
            yield f"{_name(row)}: only {number} of {results['num_photographs']} photographs were compared"
        if "first_loss" in row:
            yield f"{row['loader']}: the first step's loss is {row['first_loss']:.6g}"


def _name(row: dict[str, Any]) -> str:
    return f"{row['loader']}:{row['reads']}"


def _spread(row: dict[str, Any], what: str) -> str:
    if f"median({what})" not in row:
        return ""
    median, low, high = (_number(row[f"{which}({what})"]) for which in ("median", "min", "max"))
    return f"{median} ({low} - {high})"


def _number(value: float) -> str:
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"
