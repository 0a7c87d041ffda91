"""Scores predictors on a whole shard set, each photograph exactly once, on any number of processes."""

# Shapes: B samples, N photographs, S pixels a side.

import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from ...losses import rebalancing_weights
from ...losses.quantization import nearest_bin
from ...pipelines import LabBatch, lab_to_rgb
from ...pipelines.loading.base import Loader
from ..distributed import gather
from . import metrics
from .predictors import Predictor
from .summary import METRICS, PERCEPTUAL, summarize

TRUTH = "truth"  # the name under which rows have the metrics of the true colours
_TRUTH_METRICS = ("weight", "colorfulness", "colorfulness_abs", "chroma")
_WRITE_SECONDS = 10.0  # at most, between two writes of rows by a single process

Rows = NDArray[np.void]  # one per photograph, with the fields of Scorer.fields
PerceptualMetric = Callable[[Tensor, Tensor], Tensor]  # rgb (B, 3, S, S), predicted and true, to a metric (B,)


class ScoringStopped(Exception):
    """Raised when `stop` ends the scoring early."""


class Scorer:
    """Scores several predictors on the same photographs, in float32 on pixels that are not rounded to 8 bits.

    Args:
        predictors: Predictors by name.
        prior: Share of each ab bin (313,), for the rebalanced AuC.
        perceptual: Metrics to add, by name.
        on_prediction: Called for each batch and predictor with its name, and rgb (B, 3, S, S) predicted and true.
    """

    def __init__(
        self,
        predictors: Mapping[str, Predictor],
        prior: NDArray[np.float64],
        perceptual: Mapping[str, PerceptualMetric] | None = None,
        on_prediction: Callable[[str, Tensor, Tensor], None] | None = None,
    ) -> None:
        self.predictors, self.perceptual, self._on_prediction = predictors, perceptual or {}, on_prediction
        self._weights = rebalancing_weights(prior, lam=0)
        self._names = [f"{TRUTH}/{metric}" for metric in _TRUTH_METRICS]
        for name, predictor in predictors.items():
            missing = {*(() if predictor.has_loss else ("loss",)), *PERCEPTUAL} - self.perceptual.keys()
            self._names += [f"{name}/{metric}" for metric in METRICS if metric not in missing]
        self.fields = np.dtype([("index", "<i8"), *((name, "<f4") for name in self._names)])

    @torch.inference_mode()
    def rows(self, loader: Loader, *, every: int, stop: Callable[[], bool] = lambda: False) -> Iterator[Rows]:
        """Yields the rows of all photographs in their order, some after every `every` batches.

        Every process gets the rows of all processes. A single process also yields rows every 10 seconds.
        `stop()` is called between batches and after the last, equally often in every process; ScoringStopped is raised
        when it returns true.
        """
        pending: list[tuple[Tensor, Tensor]] = []  # stays on the device: no sync between batches
        yielded = time.monotonic()
        for done, batch in enumerate(loader, start=1):
            pending.append((batch.index, self._score(batch)))
            if done < len(loader):  # every process has samples of all batches but the last
                if stop():
                    raise ScoringStopped
                late = not dist.is_initialized() and time.monotonic() > yielded + _WRITE_SECONDS
                if done % every == 0 or late:
                    yield self._gather(pending)
                    pending, yielded = [], time.monotonic()
        if stop():
            raise ScoringStopped
        yield self._gather(pending)

    def _score(self, batch: LabBatch) -> Tensor:
        """Returns float32 (B, metrics), in the order of the fields."""
        true_rgb = lab_to_rgb(batch.L, batch.ab)
        self._weights = self._weights.to(batch.ab.device)
        weight = self._weights[nearest_bin(batch.ab)]
        true = {"weight": weight.mean(dim=(1, 2)), **_color_metrics(true_rgb, batch.ab)}
        columns = {f"{TRUTH}/{metric}": values for metric, values in true.items()}
        for name, predictor in self.predictors.items():
            ab, loss = predictor.ab_and_loss(batch)
            rgb = lab_to_rgb(batch.L, ab)
            if self._on_prediction:
                self._on_prediction(name, rgb, true_rgb)
            values = {} if loss is None else {"loss": loss}
            values |= self._compare(rgb, ab, true_rgb, batch.ab, weight)
            for kind in ("colorfulness", "colorfulness_abs"):
                values[f"delta_{kind}"] = (values[kind] - true[kind]).abs()
            columns |= {f"{name}/{metric}": value for metric, value in values.items()}
        return torch.stack([columns[name] for name in self._names], dim=1)

    def _compare(self, rgb: Tensor, ab: Tensor, true_rgb: Tensor, true_ab: Tensor, weight: Tensor) -> dict[str, Tensor]:
        mse = metrics.mse_ab(ab, true_ab)
        return {
            "rmse_ab": mse.sqrt(),
            "mse_ab": mse,
            "psnr": metrics.psnr(rgb, true_rgb),
            "ssim": metrics.ssim(rgb, true_rgb),
            "auc": metrics.auc(ab, true_ab),
            "auc_rebalanced": metrics.auc(ab, true_ab, weight),
            **_color_metrics(rgb, ab),
            **{name: metric(rgb, true_rgb) for name, metric in self.perceptual.items()},
        }

    def _gather(self, pending: list[tuple[Tensor, Tensor]]) -> Rows:
        index = torch.cat([torch.empty(0, dtype=torch.int64), *(index for index, _ in pending)]).numpy()
        rows = np.empty(len(index), self.fields)
        rows["index"] = index
        if pending:
            values = torch.cat([values for _, values in pending]).cpu().numpy()
            for number, name in enumerate(self._names):
                rows[name] = values[:, number]
        gathered: Rows = np.concatenate(gather([rows]))
        return gathered[np.argsort(gathered["index"])]


def select_columns(rows: Rows, name: str) -> dict[str, NDArray[np.float32]]:
    """Returns the metrics (N,) of one predictor, or of the truth."""
    assert rows.dtype.names is not None
    return {field.removeprefix(f"{name}/"): rows[field] for field in rows.dtype.names if field.startswith(f"{name}/")}


def score(predictor: Predictor, loader: Loader, stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
    """Returns one predictor's metrics of a set. Raises ScoringStopped when `stop()` returns true."""
    scorer = Scorer({"model": predictor}, loader.data.prior)
    rows = np.concatenate(list(scorer.rows(loader, every=1 << 30, stop=stop)))
    return summarize(select_columns(rows, "model"), select_columns(rows, TRUTH))


@torch.inference_mode()
def predictions(predictor: Predictor, loader: Loader) -> Iterator[tuple[LabBatch, Tensor]]:
    """Yields every batch of `loader` with its predicted ab (B, 2, S, S)."""
    for batch in loader:
        yield batch, predictor.ab(batch)


def _color_metrics(rgb: Tensor, ab: Tensor) -> dict[str, Tensor]:
    return {
        "colorfulness": metrics.colorfulness(rgb),
        "colorfulness_abs": metrics.colorfulness(rgb, absolute=True),
        "chroma": metrics.chroma(ab),
    }
