"""Writes report.html, one page that loads nothing from elsewhere."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from ... import __version__
from ...pipelines.files import atomic_write
from .charts import chart_colors, histogram
from .gallery import VERSIONS, image_name
from .predictors import BASELINES
from .results import BEST, WORST, Protocol, Result, SetScores
from .score import TRUTH, select_columns
from .summary import METRICS, NEAR_GREY, SET_METRICS, Metric

REPORT = "report.html"
_CAPTION_METRICS = ("loss", "rmse_ab", "psnr", "auc")


@dataclass(frozen=True, kw_only=True)
class Section:
    """All results on one shard set at one size, whose folders are in `out`.

    Properties that take time are cached: the page is written again with every section.
    """

    results: list[Result]
    out: Path

    @property
    def scores(self) -> SetScores:
        return self.results[0].scores

    @cached_property
    def values(self) -> dict[str, dict[str, float]]:
        """Returns the set's metrics of each model, of the baselines and of the truth."""
        names = dict.fromkeys([*(result.predictor for result in self.results), *BASELINES])
        return {**{name: self.scores.metrics(name) for name in names}, TRUTH: self.scores.truth()}

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """Returns the metrics that the table has a row for."""
        every = {**METRICS, **SET_METRICS}
        return {name: metric for name, metric in every.items() if any(name in row for row in self.values.values())}

    def is_best(self, name: str, value: float | None) -> bool:
        """True if no predictor in the table has a better value of a metric."""
        values = [row[name] for key, row in self.values.items() if name in row and key != TRUTH]
        side = self.metrics[name].best
        return side is not None and value == (min(values) if side == "low" else max(values))

    @property
    def colors(self) -> dict[str, str]:
        """Returns the colour of each predictor and of the truth in the charts."""
        return chart_colors(self.values)

    @cached_property
    def charts(self) -> dict[str, str]:
        """Returns the histogram of each metric of photographs, by its label."""
        columns = {name: select_columns(self.scores.rows, name) for name in self.values}
        charts = {}
        for key, metric in METRICS.items():
            if values := {name: row[key] for name, row in columns.items() if key in row}:
                charts[metric.label] = histogram(metric.heading, values, self.colors)
        return charts

    @cached_property
    def galleries(self) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """Returns the best and the worst photographs of each result, by its name."""
        return {
            result.name: {
                kind: [self._image(result, kind, rank, index) for rank, index in enumerate(samples, start=1)]
                for kind, samples in ((BEST, result.best), (WORST, result.worst))
            }
            for result in self.results
        }

    def _image(self, result: Result, kind: str, rank: int, index: int) -> dict[str, Any]:
        """Returns a photograph for the page: its versions as data URIs, and a caption with its metrics."""
        sample, columns = self.scores.data.sample(index), select_columns(self.scores.rows, result.predictor)
        shown = [name for name in dict.fromkeys([result.ranked_by, *_CAPTION_METRICS]) if name in columns]
        folder = self.out / result.name / kind
        return {
            "rank": rank,
            "sample": sample,
            "versions": {version: _data_uri(folder / image_name(rank, sample, version)) for version in VERSIONS},
            "caption": ", ".join(METRICS[name].format_with_unit(columns[name][index]) for name in shown),
        }


def write_report(sections: Sequence[Section], path: Path, protocol: Protocol) -> None:
    """Writes the page with all sections."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("photochrom.engine.evaluation"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("report.html").render(
        sections=sections, protocol=protocol, near_grey=NEAR_GREY, version=__version__
    )
    with atomic_write(path) as file:
        file.write_text(page, encoding="utf-8", errors="replace")  # file names need not be valid UTF-8


def _data_uri(path: Path) -> str:
    buffer = io.BytesIO()
    Image.open(path).save(buffer, "WEBP", quality=90)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
