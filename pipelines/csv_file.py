"""Writes tables as CSV files that spreadsheets open without executing a cell."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # spreadsheets compute such text; see OWASP's page on CSV injection


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Writes rows of text and numbers, as UTF-8; bytes of file names that are not UTF-8 are written as they are.

    Text that begins with one of = + - @, a tab or a carriage return gets a ' before it. Numbers stay numbers.
    """
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([_cell(value) for value in row] for row in rows)


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    return str(value) if isinstance(value, int) else f"{value:.6g}"
