"""Scores a model over a whole shard set, each photograph exactly once on any number of processes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..losses import ColorLoss
from ..models import Colorizer
from ..pipelines import LabBatch, lab_to_rgb
from ..pipelines.loader import Loader
from . import metrics
from .launch import gather


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The figures of every photograph of a set, in the set's order: of the model, and of grey everywhere.

    `index` is (N,); `model` and `grey` hold one (N,) tensor per metric. Grey has no loss.
    """

    index: Tensor
    model: dict[str, Tensor]
    grey: dict[str, Tensor]

    def summary(self) -> dict[str, float]:
        """The set's figures for the model."""
        return metrics.summarize(self.model)

    def grey_summary(self) -> dict[str, float]:
        """The set's figures for predicting grey everywhere."""
        return metrics.summarize(self.grey)


class Unfinished(Exception):
    """Scoring was stopped before its end."""


@torch.inference_mode()
def score(
    model: Colorizer,
    loss: ColorLoss,
    loader: Loader,
    progress: Callable[[int, int], None] = lambda done, total: None,
    stop: Callable[[], bool] = lambda: False,
) -> Scores:
    """Scores `model` on all that `loader` yields, over all processes; every process gets all scores.

    The model is left in evaluation mode. Metrics are taken in float32 on pixels that are not rounded to 8 bits. Raises
    Unfinished when `stop`, which is asked between batches, by all processes as often, says so.
    """
    model.eval()
    loss.eval()  # each process scores on its own
    rows = []
    for done, batch in enumerate(loader, start=1):
        rows.append(_score_batch(model, loss, batch))
        progress(done, len(loader))
        if done < len(loader) and stop():  # a share of the last batch can be empty, and is not asked
            raise Unfinished
    return _merge(gather([_merge(rows)] if rows else []))


@torch.inference_mode()
def predictions(model: Colorizer, loader: Loader) -> Iterator[tuple[LabBatch, Tensor]]:
    """Every batch of `loader` with the model's ab (B, 2, S, S) for it."""
    model.eval()
    for batch in loader:
        yield batch, model(batch.L).ab()


def gallery(scores: Scores, size: int) -> tuple[list[int], list[int]]:
    """Positions of the `size` best by loss, best first, and of the `size` worst, worst first; at most half each."""
    ranked: list[int] = scores.model["loss"].argsort(stable=True).tolist()
    size = min(size, max(1, len(ranked) // 2))
    return ranked[:size], ranked[::-1][:size]


def _score_batch(model: Colorizer, loss: ColorLoss, batch: LabBatch) -> Scores:
    prediction = model(batch.L)
    ab = prediction.ab()
    one_by_one = [loss(prediction[i : i + 1], batch[i : i + 1]).total for i in range(len(batch))]
    truth = lab_to_rgb(batch.L, batch.ab)
    return Scores(
        index=batch.index,
        model={"loss": torch.stack(one_by_one).float(), **_figures(batch, ab, truth)},
        grey=_figures(batch, torch.zeros_like(batch.ab), truth),
    )


def _figures(batch: LabBatch, ab: Tensor, truth: Tensor) -> dict[str, Tensor]:
    rgb = lab_to_rgb(batch.L, ab)
    mse_ab = metrics.mse_ab(ab, batch.ab)
    return {
        "rmse_ab": mse_ab.sqrt(),
        "mse_ab": mse_ab,
        "psnr": metrics.psnr(rgb, truth),
        "ssim": metrics.ssim(rgb, truth),
        "auc": metrics.auc(ab, batch.ab),
    }


def _merge(rows: list[Scores]) -> Scores:
    """All scores in the set's order, on the CPU."""
    index = torch.cat([row.index for row in rows])
    order = index.argsort()

    def merged(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.cat([part[name].cpu() for part in parts])[order] for name in parts[0]}

    return Scores(
        index=index[order], model=merged([row.model for row in rows]), grey=merged([row.grey for row in rows])
    )
