"""Results of a predictor on a set: metrics of the set, of each class and of each photograph."""

# Shapes: N photographs.

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...pipelines import ShardSet
from ...pipelines.csv_file import write_csv
from ...pipelines.output_dir import write_json
from ..checkpoints.model_file import ModelMetadata
from .predictors import BASELINES
from .score import TRUTH, Rows, select_columns
from .summary import summarize, summarize_truth

BEST, WORST = "best", "worst"
_ROUNDING = 0.1  # ab RMSE in Lab units that grey photographs have by rounding


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Settings that metrics depend on. `prior` is a path, or None for each set's own prior."""

    crop: str
    precision: str
    prior: str | None
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class SetScores:
    """Rows of one shard set at `size` pixels a side, and the FID of each predictor if it was asked for."""

    data: ShardSet
    size: int
    rows: Rows
    fid: dict[str, float]

    def metrics(self, predictor: str) -> dict[str, float]:
        """Returns one predictor's metrics of the set."""
        fid = {"fid": self.fid[predictor]} if predictor in self.fid else {}
        return {**summarize(select_columns(self.rows, predictor), select_columns(self.rows, TRUTH)), **fid}

    def truth(self) -> dict[str, float]:
        """Returns the metrics of the set's true colours."""
        return summarize_truth(select_columns(self.rows, TRUTH))

    def metrics_by_class(self, predictor: str) -> dict[str, dict[str, float]]:
        """Returns one predictor's metrics of each class, and its number of `photographs`."""
        names, classes = self._classes
        metrics = {}
        for number, name in enumerate(names.tolist()):
            rows = self.rows[classes == number]
            values = summarize(select_columns(rows, predictor), select_columns(rows, TRUTH))
            metrics[name] = {"photographs": len(rows), **values}
        return metrics

    @cached_property
    def _classes(self) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
        """Returns the names of the classes in their order, and the class of each photograph as an index (N,)."""
        return np.unique([self.data.sample(i).class_name for i in range(len(self.rows))], return_inverse=True)


@dataclass(frozen=True, kw_only=True)
class Result:
    """Scores of one predictor on one shard set.

    `name` is the name of its folder, `predictor` its name in `scores`. `checkpoint`, `metadata` and `sha256`, that of
    the model file, are None for baselines. `ranked_by` is the metric that ranks the galleries `best` and `worst`.
    """

    name: str
    predictor: str
    checkpoint: Path | None
    metadata: ModelMetadata | None
    sha256: str | None
    scores: SetScores
    ranked_by: str
    best: Sequence[int]
    worst: Sequence[int]

    @cached_property
    def metrics(self) -> dict[str, float]:
        return self.scores.metrics(self.predictor)

    @property
    def rmse_reduction(self) -> float | None:
        """Returns by how many per cent the ab RMSE is below that of grey. None if the photographs are grey."""
        grey = self.scores.metrics("grey")["rmse_ab"]
        return 100 * (1 - self.metrics["rmse_ab"] / grey) if grey > _ROUNDING else None

    @property
    def is_training_set(self) -> bool:
        """True if the model was trained on these photographs."""
        return self.metadata is not None and self.scores.data.digest in self.metadata.data.split()

    def summary(self, protocol: Protocol) -> dict[str, Any]:
        """Returns the entry in summary.json. Infinite and NaN values are null."""
        return {
            "checkpoint": self.predictor if self.checkpoint is None else str(self.checkpoint),
            "sha256": self.sha256,
            "data": str(self.scores.data.root),
            "num_samples": len(self.scores.rows),
            "is_training_set": self.is_training_set,
            "step": self.metadata.step if self.metadata else None,
            "size": self.scores.size,
            **asdict(protocol),
            "metrics": _finite(self.metrics),
            "baselines": {name: _finite(self.scores.metrics(name)) for name in BASELINES},
            "truth": _finite(self.scores.truth()),
        }


def write_tables(result: Result, folder: Path, protocol: Protocol) -> None:
    """Writes metrics.json, per_class.csv and per_image.csv.

    The columns of per_image.csv are key, original path and class, the predictor's metrics, and those of the truth and
    the baselines with their names as prefixes.
    """
    write_json(folder / "metrics.json", result.summary(protocol))
    classes = result.scores.metrics_by_class(result.predictor)
    heading = ["class", *next(iter(classes.values()))]
    write_csv(folder / "per_class.csv", [heading, *([name, *values.values()] for name, values in classes.items())])
    scores = result.scores
    columns = select_columns(scores.rows, result.predictor)
    for other in (TRUTH, *(name for name in BASELINES if name != result.predictor)):
        columns |= {f"{other}_{name}": values for name, values in select_columns(scores.rows, other).items()}
    samples = (scores.data.sample(index) for index in range(len(scores.rows)))
    names = ([sample.key, sample.path, sample.class_name] for sample in samples)
    rows = ([*name, *values] for name, *values in zip(names, *columns.values(), strict=True))
    write_csv(folder / "per_image.csv", chain([["key", "path", "class", *columns]], rows))


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
