"""The page of an evaluation: one file that needs nothing from elsewhere."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image

from ... import __version__
from ...pipelines.files import atomic_write
from ..html_page import render
from .charts import colours, histogram
from .gallery import VERSIONS, picture_name
from .predictors import BASELINES
from .results import BEST, WORST, Protocol, Result, SetScores
from .score import TRUTH, columns_of
from .summary import METRICS, NEAR_GREY, SET_FIGURES, Metric

_ALL = {**METRICS, **SET_FIGURES}
_SAID = ("loss", "rmse_ab", "psnr", "auc")  # of each picture


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A photograph of a gallery as the page shows it: its versions as data URIs, and what is said of it."""

    rank: int
    path: str
    class_name: str
    versions: dict[str, str]
    caption: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """All results on one shard set at one size; their folders lie in `out`.

    What takes time is made once: the page is written anew with every section.
    """

    results: list[Result]
    out: Path

    @property
    def scores(self) -> SetScores:
        return self.results[0].scores

    @cached_property
    def metrics(self) -> dict[str, dict[str, float]]:
        """The set's figures of the models, the baselines and the true colours."""
        names = dict.fromkeys([*(result.predictor for result in self.results), *BASELINES])
        return {**{name: self.scores.metrics(name) for name in names}, TRUTH: self.scores.truth()}

    @cached_property
    def figures(self) -> dict[str, Metric]:
        """The figures that any of them has."""
        return {name: figure for name, figure in _ALL.items() if any(name in row for row in self.metrics.values())}

    @property
    def has_perceptual(self) -> bool:
        """Whether figures of other networks are among them."""
        return not {"lpips", "fid"}.isdisjoint(self.figures)

    def is_best(self, name: str, value: float | None) -> bool:
        """Whether no other in the table has a better value of a figure."""
        values = [row[name] for key, row in self.metrics.items() if name in row and key != TRUTH]
        side = self.figures[name].best
        return side is not None and value == (min(values) if side == "low" else max(values))

    @property
    def colours(self) -> dict[str, str]:
        """What each row of the table is drawn in."""
        return colours(self.metrics)

    @cached_property
    def charts(self) -> dict[str, str]:
        """The histogram of each figure of a photograph, by its label."""
        columns = {name: columns_of(self.scores.rows, name) for name in self.metrics}
        found = {key: {name: row[key] for name, row in columns.items() if key in row} for key in METRICS}
        return {
            METRICS[key].label: histogram(METRICS[key].heading, values, self.colours)
            for key, values in found.items()
            if values
        }

    @cached_property
    def galleries(self) -> dict[str, dict[str, list[Picture]]]:
        """The best and the worst of each result, by its name."""
        return {
            result.name: {
                kind: [self._picture(result, kind, rank, index) for rank, index in enumerate(samples, start=1)]
                for kind, samples in ((BEST, result.best), (WORST, result.worst))
            }
            for result in self.results
        }

    def _picture(self, result: Result, kind: str, rank: int, index: int) -> Picture:
        sample, columns = self.scores.data.sample(index), columns_of(self.scores.rows, result.predictor)
        said = [name for name in dict.fromkeys([result.by, *_SAID]) if name in columns]
        folder = self.out / result.name / kind
        return Picture(
            rank=rank,
            path=sample.path,
            class_name=sample.class_name,
            versions={version: _data_uri(folder / picture_name(rank, sample, version)) for version in VERSIONS},
            caption=", ".join(METRICS[name].said(columns[name][index]) for name in said),
        )


def write_report(sections: Sequence[Section], path: Path, protocol: Protocol) -> None:
    """Writes the page."""
    page = render(
        "photochrom.engine.evaluation",
        "report.html",
        sections=sections,
        protocol=protocol,
        near_grey=NEAR_GREY,
        version=__version__,
    )
    with atomic_write(path) as file:
        file.write_text(page, encoding="utf-8", errors="replace")  # names of files need not be text to the system


def _data_uri(picture: Path) -> str:
    buffer = io.BytesIO()
    Image.open(picture).save(buffer, "WEBP", quality=90)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
