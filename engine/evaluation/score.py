"""Scores predictors over a whole shard set, each photograph exactly once on any number of processes."""

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
from .summary import summarize

TRUTH = "truth"  # whose figures are those of the true colours
_OF_TRUTH = ("weight", "colorfulness", "colorfulness_abs", "chroma")
_OF_PREDICTION = (
    *("rmse_ab", "mse_ab", "psnr", "ssim", "auc", "auc_rebalanced", "colorfulness", "colorfulness_abs"),
    *("delta_colorfulness", "delta_colorfulness_abs", "chroma"),
)

_PATIENCE = 10.0  # seconds

Rows = NDArray[np.void]  # one per photograph, with the fields of Scorer.fields
Perceptual = Callable[[Tensor, Tensor], Tensor]  # a figure (B,) of rgb (B, 3, S, S), predicted and true


class Unfinished(Exception):
    """Scoring was stopped before its end."""


class Scorer:
    """Scores what several predictors make of the same photographs, in float32 on pixels not rounded to 8 bits.

    Args:
        predictors: Each under its name.
        prior: Share of each ab bin (313,), by which pixels are rebalanced.
        perceptual: Further figures, each under its name.
        seen: Is shown what each predictor, by name, makes of a batch: rgb (B, 3, S, S), predicted and true.
    """

    def __init__(
        self,
        predictors: Mapping[str, Predictor],
        prior: NDArray[np.float64],
        perceptual: Mapping[str, Perceptual] | None = None,
        seen: Callable[[str, Tensor, Tensor], None] = lambda name, rgb, true: None,
    ) -> None:
        self.predictors, self.perceptual, self._seen = predictors, perceptual or {}, seen
        self._weights = rebalancing_weights(prior, lam=0)
        self._names = [f"{TRUTH}/{figure}" for figure in _OF_TRUTH]
        for name, predictor in predictors.items():
            figures = (*(("loss",) if predictor.has_loss else ()), *_OF_PREDICTION, *self.perceptual)
            self._names += [f"{name}/{figure}" for figure in figures]
        self.fields = np.dtype([("index", "<i8"), *((name, "<f4") for name in self._names)])

    @torch.inference_mode()
    def rows(self, loader: Loader, *, every: int, stop: Callable[[int], bool] = lambda done: False) -> Iterator[Rows]:
        """The rows of all that `loader` yields, of all processes and to all of them, after every `every` batches.

        One process alone yields them every 10 seconds, too. They come in the order of the photographs. Raises
        Unfinished when `stop` says so, which is told the number of batches done and asked between them, by all
        processes as often.
        """
        pending: list[tuple[Tensor, Tensor]] = []  # on the device, which need not be waited for
        yielded = time.monotonic()
        for done, batch in enumerate(loader, start=1):
            pending.append((batch.index, self._score(batch)))
            if done < len(loader):  # a share of the last batch can be empty, and is not asked
                if stop(done):
                    raise Unfinished
                late = not dist.is_initialized() and time.monotonic() > yielded + _PATIENCE
                if done % every == 0 or late:
                    yield self._gathered(pending)
                    pending, yielded = [], time.monotonic()
        yield self._gathered(pending)

    def _score(self, batch: LabBatch) -> Tensor:
        """float32 (B, figures), in the order of the fields."""
        true_rgb = lab_to_rgb(batch.L, batch.ab)
        self._weights = self._weights.to(batch.ab.device)
        weight = self._weights[nearest_bin(batch.ab)]
        true = {"weight": weight.mean(dim=(1, 2)), **_colours(true_rgb, batch.ab)}
        found = {f"{TRUTH}/{figure}": values for figure, values in true.items()}
        for name, predictor in self.predictors.items():
            ab, loss = predictor.ab_and_loss(batch)
            rgb = lab_to_rgb(batch.L, ab)
            self._seen(name, rgb, true_rgb)
            figures = {} if loss is None else {"loss": loss}
            figures |= self._compared(rgb, ab, true_rgb, batch.ab, weight)
            for kind in ("colorfulness", "colorfulness_abs"):
                figures[f"delta_{kind}"] = (figures[kind] - true[kind]).abs()
            found |= {f"{name}/{figure}": values for figure, values in figures.items()}
        return torch.stack([found[name] for name in self._names], dim=1)

    def _compared(
        self, rgb: Tensor, ab: Tensor, true_rgb: Tensor, true_ab: Tensor, weight: Tensor
    ) -> dict[str, Tensor]:
        mse = metrics.mse_ab(ab, true_ab)
        return {
            "rmse_ab": mse.sqrt(),
            "mse_ab": mse,
            "psnr": metrics.psnr(rgb, true_rgb),
            "ssim": metrics.ssim(rgb, true_rgb),
            "auc": metrics.auc(ab, true_ab),
            "auc_rebalanced": metrics.auc(ab, true_ab, weight),
            **_colours(rgb, ab),
            **{name: figure(rgb, true_rgb) for name, figure in self.perceptual.items()},
        }

    def _gathered(self, pending: list[tuple[Tensor, Tensor]]) -> Rows:
        index = torch.cat([torch.empty(0, dtype=torch.int64), *(index for index, _ in pending)]).numpy()
        rows = np.empty(len(index), self.fields)
        rows["index"] = index
        if pending:
            values = torch.cat([values for _, values in pending]).cpu().numpy()
            for number, name in enumerate(self._names):
                rows[name] = values[:, number]
        everyones: Rows = np.concatenate(gather([rows]))
        return everyones[np.argsort(everyones["index"])]


def columns_of(rows: Rows, name: str) -> dict[str, NDArray[np.float32]]:
    """The figures (N,) of one predictor, or of the truth."""
    assert rows.dtype.names is not None
    return {field.removeprefix(f"{name}/"): rows[field] for field in rows.dtype.names if field.startswith(f"{name}/")}


def score(predictor: Predictor, loader: Loader, stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
    """The set's figures for one predictor; raises Unfinished when `stop` says so, see `Scorer.rows`."""
    scorer = Scorer({"model": predictor}, loader.data.prior)
    rows = np.concatenate(list(scorer.rows(loader, every=1 << 30, stop=lambda done: stop())))
    return summarize(columns_of(rows, "model"), columns_of(rows, TRUTH))


@torch.inference_mode()
def predictions(predictor: Predictor, loader: Loader) -> Iterator[tuple[LabBatch, Tensor]]:
    """Every batch of `loader` with the ab (B, 2, S, S) predicted for it."""
    for batch in loader:
        yield batch, predictor.ab(batch)


def _colours(rgb: Tensor, ab: Tensor) -> dict[str, Tensor]:
    return {
        "colorfulness": metrics.colorfulness(rgb),
        "colorfulness_abs": metrics.colorfulness(rgb, absolute=True),
        "chroma": metrics.chroma(ab),
    }
