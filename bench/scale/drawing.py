"""Predictions beside what was found, as a picture."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

_BAND = 0.1  # of a rate, on both sides of the line on which a prediction is right
_MARKERS = "osD^v<>Ph"
_BEYOND = 1.25  # times the rates, so far do the axes reach


@dataclass(frozen=True, kw_only=True)
class Dot:
    """Rates per second: one that was found, maybe with the least and the most of its rounds, and the predicted one."""

    label: str
    found: float
    predicted: float
    spread: tuple[float, float] | None = None


def draw(dots: Iterable[Dot], path: Path, *, found: str, unit: str, log: bool = False) -> None:
    """Each dot under its label, the line on which predictions are right, and the band of 10 % around it.

    `found` says what the rates are that predictions are held against, `unit` what they count.
    """
    by_label: dict[str, list[Dot]] = {}
    for dot in dots:
        by_label.setdefault(dot.label, []).append(dot)
    figure = Figure(figsize=(5, 5))
    axes = figure.subplots()
    ends = list(_rates(by_label))
    low, high = min(ends) / _BEYOND if log else 0.0, _BEYOND * max(ends)
    _truth(axes, low, high)
    for number, (label, same) in enumerate(by_label.items()):
        _plot(axes, label, same, f"C{number}", _MARKERS[number % len(_MARKERS)])
    if log:
        _scale(axes)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal", xlabel=f"{found}, {unit}", ylabel=f"predicted, {unit}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    figure.savefig(path, dpi=120, bbox_inches="tight")


def _rates(by_label: Mapping[str, list[Dot]]) -> Iterator[float]:
    for same in by_label.values():
        for dot in same:
            yield from (dot.predicted, dot.found, *(dot.spread or ()))


def _truth(axes: Axes, low: float, high: float) -> None:
    ends = [low, high]
    below, above = ([(1 + off) * end for end in ends] for off in (-_BAND, _BAND))
    axes.fill_between(ends, below, above, color="0.92", label="within 10 %")
    axes.plot(ends, ends, "--", color="0.5", linewidth=1, label="as predicted")


def _plot(axes: Axes, label: str, dots: list[Dot], color: str, marker: str) -> None:
    x, y = [dot.found for dot in dots], [dot.predicted for dot in dots]
    axes.plot(x, y, marker, color=color, markerfacecolor="none", markeredgewidth=1.5, label=label)
    for dot in dots:
        if dot.spread:
            axes.plot(dot.spread, [dot.predicted] * 2, color=color)


def _scale(axes: Axes) -> None:
    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
