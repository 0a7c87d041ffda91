"""What an evaluation leaves of a predictor on a set: figures of the set, of each class and of each photograph."""

# Shapes: N photographs.

import csv
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...pipelines import ShardSet
from ...pipelines.output_dir import write_json
from ..checkpoints.model_file import ModelMetadata
from .score import TRUTH, Rows, columns_of
from .summary import Columns, describe, summarize

BEST, WORST = "best", "worst"
_GREY = 0.1  # ab RMSE in Lab units of what is grey but for rounding


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What has to be known to hold the figures against others'; `prior` is a file's name, None for each set's own."""

    crop: str
    precision: str
    prior: str | None
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class SetScores:
    """What was scored on one shard set, with photographs of `size` pixels a side; `fid` is each predictor's, if any."""

    data: ShardSet
    size: int
    rows: Rows
    fid: dict[str, float]

    def metrics(self, predictor: str) -> dict[str, float]:
        """The set's figures of one predictor."""
        fid = {"fid": self.fid[predictor]} if predictor in self.fid else {}
        return {**summarize(columns_of(self.rows, predictor), columns_of(self.rows, TRUTH)), **fid}

    def truth(self) -> dict[str, float]:
        """The set's figures of the true colours."""
        return describe(columns_of(self.rows, TRUTH))

    def metrics_by_class(self, predictor: str) -> dict[str, dict[str, float]]:
        """The figures of one predictor on each class, and how many `photographs` that has."""
        number, names = self._classes
        order, ends = np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1]
        found = {}
        for name, members in zip(names, np.split(order, ends), strict=True):
            rows = self.rows[members]
            figures = summarize(columns_of(rows, predictor), columns_of(rows, TRUTH))
            found[name] = {"photographs": len(members), **figures}
        return found

    @cached_property
    def _classes(self) -> tuple[NDArray[np.int64], list[str]]:
        """The number of each photograph's class (N,), and the classes' names."""
        numbers: dict[str, int] = {}
        of_sample = [numbers.setdefault(self.data.sample(i).class_name, len(numbers)) for i in range(len(self.rows))]
        return np.array(of_sample, dtype=np.int64), list(numbers)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One predictor on one shard set.

    `name` is that of its folder; `predictor` its own in `scores`; `checkpoint` and `metadata` are None for a baseline;
    `by` is the figure that its galleries go by.
    """

    name: str
    predictor: str
    checkpoint: Path | None
    metadata: ModelMetadata | None
    scores: SetScores
    by: str
    best: Sequence[int]
    worst: Sequence[int]

    @cached_property
    def metrics(self) -> dict[str, float]:
        return self.scores.metrics(self.predictor)

    @property
    def rmse_reduction(self) -> float | None:
        """By how many per cent the ab RMSE is below that of predicting grey everywhere; None where all is grey."""
        grey = self.scores.metrics("grey")["rmse_ab"]
        return 100 * (1 - self.metrics["rmse_ab"] / grey) if grey > _GREY else None

    @property
    def is_training_set(self) -> bool:
        """Whether the model was trained on these very photographs."""
        return self.metadata is not None and self.metadata.data == self.scores.data.digest

    def summary(self, baselines: Sequence[str], protocol: Protocol) -> dict[str, Any]:
        """The result as summary.json states it; figures that are no numbers are null."""
        return {
            "checkpoint": self.predictor if self.checkpoint is None else str(self.checkpoint),
            "data": str(self.scores.data.root),
            "num_samples": len(self.scores.rows),
            "is_training_set": self.is_training_set,
            "step": self.metadata.step if self.metadata else None,
            "size": self.scores.size,
            **asdict(protocol),
            "metrics": _finite(self.metrics),
            "baselines": {name: _finite(self.scores.metrics(name)) for name in baselines},
            "truth": _finite(self.scores.truth()),
        }


@contextmanager
def result_folder(folder: Path) -> Iterator[Path]:
    """A place for a result's files, which then appear under the name of its folder, all or none."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_figures(result: Result, folder: Path, baselines: Sequence[str], protocol: Protocol) -> None:
    """Writes metrics.json, per_class.csv and per_image.csv: key, original path, class, then every figure.

    In per_image.csv, those of the predictor come first, then those of the true colours and of the baselines, which have
    their names before them.
    """
    write_json(folder / "metrics.json", result.summary(baselines, protocol))
    classes = result.scores.metrics_by_class(result.predictor)
    with _csv(folder / "per_class.csv") as file:
        writer = csv.writer(file)
        writer.writerow(["class", *next(iter(classes.values()))])
        writer.writerows([name, *map(_text, figures.values())] for name, figures in sorted(classes.items()))
    scores = result.scores
    columns: Columns = columns_of(scores.rows, result.predictor)
    for other in (TRUTH, *(name for name in baselines if name != result.predictor)):
        columns = {**columns, **{f"{other}_{name}": values for name, values in columns_of(scores.rows, other).items()}}
    with _csv(folder / "per_image.csv") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "path", "class", *columns])
        for index in range(len(scores.rows)):
            sample = scores.data.sample(index)
            figures = (_text(values[index]) for values in columns.values())
            writer.writerow([sample.key, sample.path, sample.class_name, *figures])


def _csv(path: Path) -> Any:
    return open(path, "w", newline="", encoding="utf-8", errors="surrogateescape")


def _text(value: float) -> str:
    return f"{value:.6g}"


def _finite(figures: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}
