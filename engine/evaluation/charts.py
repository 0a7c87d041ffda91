"""How a figure is spread over photographs, as pictures for a page."""

import base64
import io
from collections.abc import Iterable, Mapping
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from .score import TRUTH

_COLOURS = ("#c2410c", "#0369a1", "#4d7c0f", "#7e22ce", "#be185d", "#0f766e")
_LINES = {"grey": "#737373", "mean": "#a16207", TRUTH: "#000000"}  # of what is no model
_SHOWN = 99.5  # per cent of the photographs from either side: one odd one should not squeeze the others


def colours(names: Iterable[str]) -> dict[str, str]:
    """The colour in which each is drawn: models filled, all else as a line."""
    others = cycle(_COLOURS)
    return {name: _LINES.get(name) or next(others) for name in names}


def histogram(label: str, values: Mapping[str, NDArray[np.float32]], colour: Mapping[str, str]) -> str:
    """The spread of a figure (N,) of each predictor, as the data URI of an SVG."""
    drawing = Drawing(figsize=(4, 2.2), layout="constrained")
    axes = drawing.subplots()
    finite = {name: column[np.isfinite(column)] for name, column in values.items()}
    everything = np.concatenate(list(finite.values()))
    low, high = np.percentile(everything, [100 - _SHOWN, _SHOWN]) if len(everything) else (0.0, 1.0)
    edges: Any = np.linspace(low, high if high > low else low + 1e-6, 31)
    for name, column in finite.items():
        style: Any = {"histtype": "step", "linewidth": 1.4} if name in _LINES else {"alpha": 0.5}
        axes.hist(np.clip(column, low, edges[-1]), edges, color=colour[name], **style)
    axes.set(xlabel=label, ylabel="photographs")
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"
