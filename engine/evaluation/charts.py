"""Draws how a metric is distributed over photographs, as pictures for the report."""

import base64
import io
from collections.abc import Iterable, Mapping
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .score import TRUTH

_COLORS = ("#c2410c", "#0369a1", "#4d7c0f", "#7e22ce", "#be185d", "#0f766e")
_LINE_COLORS = {"grey": "#737373", "mean": "#a16207", TRUTH: "#000000"}  # baselines and truth are drawn as lines
_SHOWN = 99.5  # per cent of the photographs from either side: one outlier should not squeeze the others


def chart_colors(names: Iterable[str]) -> dict[str, str]:
    """Returns the colour in which each predictor, and the truth, is drawn."""
    others = cycle(_COLORS)
    return {name: _LINE_COLORS.get(name) or next(others) for name in names}


def histogram(label: str, values: Mapping[str, NDArray[np.float32]], colors: Mapping[str, str]) -> str:
    """Returns the histogram of a metric (N,) of each predictor, as the data URI of an SVG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(4, 2.2))
    axes = figure.add_axes((0.17, 0.23, 0.8, 0.73))  # twice as fast as a layout engine
    finite = {name: column[np.isfinite(column)] for name, column in values.items()}
    everything = np.concatenate(list(finite.values()))
    low, high = np.percentile(everything, [100 - _SHOWN, _SHOWN]) if len(everything) else (0.0, 1.0)
    edges: Any = np.linspace(low, high if high > low else low + 1e-6, 31)
    for name, column in finite.items():
        is_line = name in _LINE_COLORS
        style: Any = {"histtype": "step", "linewidth": 1.4} if is_line else {"histtype": "stepfilled", "alpha": 0.5}
        axes.hist(np.clip(column, low, edges[-1]), edges, color=colors[name], **style)
    axes.set(xlabel=label, ylabel="photographs")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"
