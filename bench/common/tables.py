"""Rows of figures as people read them: a column for each key, in which the unit stands, and bars for spreads."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...engine.console import plural

DASH = "-"  # where there is no figure
_ROOM = 1.5  # times the largest median is as far as a bar's line is drawn
_APART = 10  # times the second largest median: so much larger a one is broken off, for the others to be seen

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A median with its smallest and largest, in per cent of the width that there is; a broken one ends nowhere."""

    median: float
    low: float
    high: float

    @property
    def is_broken(self) -> bool:
        """Whether there is no room for it."""
        return self.median > 100


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A text, what is said beside it, and maybe a bar."""

    text: str
    aside: str = ""
    bar: Bar | None = None


@dataclass(frozen=True, kw_only=True)
class Column:
    """Cells that stand below one another."""

    name: str
    detail: str = ""
    is_numeric: bool
    cells: Sequence[Cell]

    @property
    def has_bars(self) -> bool:
        """Whether any cell has one."""
        return any(cell.bar for cell in self.cells)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows as columns; `left_out` are the keys of what would not fit into a cell."""

    title: str = ""
    columns: Sequence[Column]
    left_out: Sequence[str]

    @property
    def rows(self) -> list[tuple[Cell, ...]]:
        """The cells of each row."""
        return list(zip(*(column.cells for column in self.columns), strict=True))

    @property
    def size(self) -> str:
        """How many rows there are."""
        return plural(len(self.rows), "row")


def table_of(rows: Sequence[Row], title: str = "") -> Table:
    """A table of rows, which need not all have the same keys; median(X), min(X) and max(X) become one column X."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    nested = [key for key in keys if any(isinstance(row.get(key), dict | list) for row in rows)]
    spreads = {f"median({what})": what for what in _spreads(keys) if f"median({what})" not in nested}
    members = {f"{which}({what})" for what in spreads.values() for which in ("min", "max")}
    columns = [
        _spread(rows, spreads[key]) if key in spreads else _plain(rows, key)
        for key in keys
        if key not in members and key not in nested
    ]
    return Table(title=title, columns=columns, left_out=nested)


def number(value: float) -> str:
    """A number for a reader: a whole one as it is, any other to three digits, or to the unit where that is more."""
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value) or (value and not 1e-4 <= abs(value) < 1e15):
        return f"{value:.3g}"
    rounded = abs(float(f"{value:.3g}"))
    decimals = max(0, 2 - math.floor(math.log10(rounded))) if value else 0
    return f"{value:,.{decimals}f}"


def text_of(value: Any, *, exact: bool = False) -> str:
    """Any value of a JSON file in one line; numbers as `number` says, or all their digits."""
    if value is None or value == [] or value == {} or value == "":
        return DASH
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "; ".join(f"{key}: {text_of(each, exact=exact)}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(text_of(each, exact=exact) for each in value)
    return number(value) if isinstance(value, int | float) and not exact else str(value)


def facts(values: Row, *, exact: bool = False, within: str = "") -> Iterator[tuple[str, str]]:
    """Names and texts of named values; what is named within another has both names, joined by a dot."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from facts(value, exact=exact, within=f"{within}{key}.")
        else:
            yield f"{within}{key}", text_of(value, exact=exact)


def _spreads(keys: Sequence[str]) -> list[str]:
    found = (match[1] for key in keys if (match := re.fullmatch(r"median\((.+)\)", key, re.DOTALL)))
    return [what for what in found if {f"min({what})", f"max({what})"} <= set(keys)]


def _plain(rows: Sequence[Row], key: str) -> Column:
    values = [row.get(key) for row in rows]
    return Column(
        name=key,
        is_numeric=all(value is None or _is_number(value) for value in values),
        cells=[Cell(text=text_of(value)) for value in values],
    )


def _spread(rows: Sequence[Row], what: str) -> Column:
    values = [[row.get(f"{which}({what})") for which in ("median", "min", "max")] for row in rows]
    return Column(
        name=what,
        detail="median (smallest - largest)",
        is_numeric=True,
        cells=[
            Cell(text=text_of(median), aside=_aside(low, high), bar=bar)
            for (median, low, high), bar in zip(values, _bars(values), strict=True)
        ],
    )


def _aside(low: Any, high: Any) -> str:
    return "" if low is None and high is None else f"({text_of(low)} - {text_of(high)})"


def _bars(values: Sequence[Sequence[Any]]) -> list[Bar | None]:
    """In proportion to one another, from zero; none for what is no spread of positive numbers."""
    drawn = [all(map(_is_drawable, each)) for each in values]
    unit = _width([tuple(each) for each, is_drawn in zip(values, drawn, strict=True) if is_drawn]) / 100
    return [
        Bar(median=each[0] / unit, low=each[1] / unit, high=each[2] / unit) if is_drawn else None
        for each, is_drawn in zip(values, drawn, strict=True)
    ]


def _width(spreads: Sequence[tuple[float, ...]]) -> float:
    """What the width stands for: the largest figure, but no outlier that would leave nothing of the others."""
    ordered = sorted(spreads) or [(1.0, 1.0, 1.0)]
    if len(ordered) > 1 and ordered[-1][0] > _APART * ordered[-2][0]:
        ordered.pop()
    return min(max(largest for *_, largest in ordered), _ROOM * ordered[-1][0])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_drawable(value: Any) -> bool:
    return _is_number(value) and 0 < value < 1e300
