"""The figures of an evaluation: what they are called, which way is better, and those of a set from its photographs'."""

# Shapes: N photographs.

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

NEAR_GREY = 5.0  # mean chroma in Lab units below which a picture is called near-grey

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One figure: how people see it, and whether the best have the lowest or the highest of it."""

    label: str
    unit: str = ""
    best: Literal["low", "high"] | None = None
    form: str = ".2f"

    @property
    def heading(self) -> str:
        """The label with its unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def text(self, value: float | None) -> str:
        """A value for a person; nothing where there is none."""
        return "" if value is None else format(value, self.form)

    def said(self, value: float) -> str:
        """Label, value and unit."""
        return " ".join(filter(None, (self.label, self.text(value), self.unit)))


# Of a photograph, and of a set.
METRICS: dict[str, Metric] = {
    "loss": Metric(label="loss", best="low", form=".4g"),
    "rmse_ab": Metric(label="ab RMSE", best="low"),
    "mse_ab": Metric(label="ab MSE", best="low", form=".1f"),
    "psnr": Metric(label="PSNR", unit="dB", best="high"),
    "ssim": Metric(label="SSIM", best="high", form=".4f"),
    "auc": Metric(label="AuC", unit="%", best="high"),
    "auc_rebalanced": Metric(label="rebalanced AuC", unit="%", best="high"),
    "colorfulness": Metric(label="colorfulness", form=".1f"),
    "colorfulness_abs": Metric(label="colorfulness, absolute", form=".1f"),
    "delta_colorfulness": Metric(label="delta colorfulness", best="low", form=".1f"),
    "delta_colorfulness_abs": Metric(label="delta colorfulness, absolute", best="low", form=".1f"),
    "chroma": Metric(label="mean chroma"),
    "lpips": Metric(label="LPIPS (alex)", best="low", form=".4f"),
}
# Of a set alone.
SET_FIGURES: dict[str, Metric] = {
    "delta_mean_colorfulness": Metric(label="delta of mean colorfulness", best="low", form=".1f"),
    "delta_mean_colorfulness_abs": Metric(label="delta of mean colorfulness, absolute", best="low", form=".1f"),
    "near_grey": Metric(label="near-grey", unit="%", form=".1f"),
    "fid": Metric(label="FID", best="low"),
}


def summarize(predicted: Columns, true: Columns) -> dict[str, float]:
    """The set's figures from those of its photographs, each (N,); all have one number of pixels, so means are pooled.

    `true` are those of the true colours, weight among them, the mean weight of a photograph's pixels. `rmse_ab` is
    the root of the mean `mse_ab`, `auc_rebalanced` the mean by weight, `psnr` the mean over the photographs that differ
    from the truth at all, infinite if none does.
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


def describe(true: Columns) -> dict[str, float]:
    """The set's figures of the true colours, to hold those of predictions against."""
    names = ("colorfulness", "colorfulness_abs", "chroma")
    return {**{name: _mean(true[name]) for name in names}, "near_grey": near_grey(true["chroma"])}


def near_grey(chroma: NDArray[Any]) -> float:
    """The share of pictures whose mean chroma (N,) is below `NEAR_GREY`, in per cent."""
    return 100 * float((chroma < NEAR_GREY).mean())


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean(dtype=np.float64))
