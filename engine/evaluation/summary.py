"""Names, units and directions of the metrics, and the metrics of a set from those of its photographs."""

# Shapes: N photographs.

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

NEAR_GREY = 5.0  # mean chroma in Lab units below which a photograph counts as near-grey
PERCEPTUAL = ("lpips", "fid")  # only computed if asked for

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Name, unit and number format of a metric, and the direction in which it is best."""

    label: str
    unit: str = ""
    best: Literal["low", "high"] | None = None
    digits: str = ".2f"

    @property
    def heading(self) -> str:
        """Returns the label with its unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def format(self, value: float | None) -> str:
        """Returns the rounded value, or an empty string for None."""
        return "" if value is None else format(value, self.digits)

    def format_with_unit(self, value: float) -> str:
        """Returns label, value and unit."""
        return " ".join(filter(None, (self.label, self.format(value), self.unit)))


# Metrics of a photograph, and of a set.
METRICS: dict[str, Metric] = {
    "loss": Metric(label="loss", best="low", digits=".4g"),
    "rmse_ab": Metric(label="ab RMSE", best="low"),
    "mse_ab": Metric(label="ab MSE", best="low", digits=".1f"),
    "psnr": Metric(label="PSNR", unit="dB", best="high"),
    "ssim": Metric(label="SSIM", best="high", digits=".4f"),
    "auc": Metric(label="AuC", unit="%", best="high"),
    "auc_rebalanced": Metric(label="rebalanced AuC", unit="%", best="high"),
    "colorfulness": Metric(label="colorfulness", digits=".1f"),
    "colorfulness_abs": Metric(label="colorfulness, absolute", digits=".1f"),
    "delta_colorfulness": Metric(label="delta colorfulness", best="low", digits=".1f"),
    "delta_colorfulness_abs": Metric(label="delta colorfulness, absolute", best="low", digits=".1f"),
    "chroma": Metric(label="mean chroma"),
    "lpips": Metric(label="LPIPS (alex)", best="low", digits=".4f"),
}
# Metrics of a set only.
SET_METRICS: dict[str, Metric] = {
    "delta_mean_colorfulness": Metric(label="delta of mean colorfulness", best="low", digits=".1f"),
    "delta_mean_colorfulness_abs": Metric(label="delta of mean colorfulness, absolute", best="low", digits=".1f"),
    "near_grey": Metric(label="near-grey", unit="%", digits=".1f"),
    "fid": Metric(label="FID", best="low"),
}
# Metrics that a validation computes and that have a best value.
VALIDATION_METRICS = {
    name: metric for name, metric in {**METRICS, **SET_METRICS}.items() if metric.best and name not in PERCEPTUAL
}


def summarize(predicted: Columns, true: Columns) -> dict[str, float]:
    """Returns the metrics of a set from those of its photographs, each (N,).

    All photographs have the same number of pixels, so the mean over photographs is the mean over pixels. `true` holds
    the metrics of the true colours, and `weight`, the mean weight of a photograph's pixels. `rmse_ab` is the root of
    the mean `mse_ab`; `auc_rebalanced` is the mean by weight; `psnr` is the mean over photographs with any error, and
    infinite if there are none.
    """
    means = {name: _mean(values) for name, values in predicted.items()}
    differing = predicted["psnr"][~np.isposinf(predicted["psnr"])]
    weight = true["weight"].astype(np.float64)
    colorfulness = {
        f"delta_mean_{name}": abs(means[name] - _mean(true[name])) for name in ("colorfulness", "colorfulness_abs")
    }
    return {
        **means,
        "rmse_ab": math.sqrt(means["mse_ab"]),
        "psnr": _mean(differing) if len(differing) else math.inf,
        "auc_rebalanced": float((weight * predicted["auc_rebalanced"]).sum() / weight.sum()),
        **colorfulness,
        "near_grey": near_grey(predicted["chroma"]),
    }


def summarize_truth(true: Columns) -> dict[str, float]:
    """Returns the metrics of a set's true colours, to compare predictions with."""
    names = ("colorfulness", "colorfulness_abs", "chroma")
    return {**{name: _mean(true[name]) for name in names}, "near_grey": near_grey(true["chroma"])}


def near_grey(chroma: NDArray[Any]) -> float:
    """Returns the share of photographs, in per cent, whose mean chroma (N,) is below `NEAR_GREY`."""
    return 100 * float((chroma < NEAR_GREY).mean())


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean(dtype=np.float64))
