import math
from typing import Any

import numpy as np
import pytest
from photochrom.engine.evaluation.gallery import best_and_worst
from photochrom.engine.evaluation.summary import METRICS, summarize, summarize_truth


def columns(**values: list[float]) -> dict[str, Any]:
    length = len(next(iter(values.values())))
    names = ("mse_ab", "rmse_ab", "psnr", "auc_rebalanced", "colorfulness", "colorfulness_abs", "chroma", "weight")
    return {name: np.array(values.get(name, [1.0] * length), np.float32) for name in names}


def test_errors_are_pooled_and_the_rest_is_averaged() -> None:
    predicted = columns(mse_ab=[1, 9, 26], rmse_ab=[1, 3, 26**0.5], psnr=[20, math.inf, 30], chroma=[1, 4.9, 60])
    metrics = summarize(predicted, columns(weight=[1, 1, 1]))
    assert metrics["rmse_ab"] == pytest.approx(math.sqrt(12))
    assert metrics["mse_ab"] == pytest.approx(12)
    assert metrics["psnr"] == pytest.approx(25)
    assert metrics["near_grey"] == pytest.approx(200 / 3)


def test_rebalanced_auc_is_pooled_by_weight() -> None:
    metrics = summarize(columns(auc_rebalanced=[90, 30]), columns(weight=[1, 3]))
    assert metrics["auc_rebalanced"] == pytest.approx(45)


def test_both_deltas_of_colorfulness() -> None:
    """One photograph too colourful by 10 and one too grey by 10: right on average, both wrong."""
    predicted = {**columns(colorfulness=[30, 10]), "delta_colorfulness": np.array([10, 10])}
    metrics = summarize(predicted, columns(colorfulness=[20, 20]))
    assert (metrics["delta_colorfulness"], metrics["delta_mean_colorfulness"]) == (10, 0)


def test_a_perfect_prediction_has_infinite_psnr() -> None:
    assert summarize(columns(mse_ab=[0], psnr=[math.inf]), columns(weight=[1]))["psnr"] == math.inf


def test_divergence_is_not_hidden() -> None:
    metrics = summarize(columns(mse_ab=[1, math.inf], psnr=[20, -math.inf]), columns(weight=[1, 1]))
    assert (metrics["rmse_ab"], metrics["psnr"]) == (math.inf, -math.inf)


def test_the_truth_has_colours_only() -> None:
    assert summarize_truth(columns(chroma=[1, 9])) == {
        "colorfulness": 1,
        "colorfulness_abs": 1,
        "chroma": 5,
        "near_grey": 50,
    }


@pytest.mark.parametrize(("best", "first", "last"), [("low", [1, 0], [3, 2]), ("high", [2, 0], [3, 1])])
def test_nan_is_worst(best: str, first: list[int], last: list[int]) -> None:
    values = np.array([2, 1, 3, math.nan], np.float32)
    assert best_and_worst(values, best, 50) == (first, last)
    assert best_and_worst(values, best, 1) == (first[:1], last[:1])
    assert best_and_worst(values[:1], best, 50) == ([0], [0])


def test_metrics_are_formatted_with_units() -> None:
    assert METRICS["psnr"].heading == "PSNR (dB)"
    assert METRICS["psnr"].format_with_unit(20.126) == "PSNR 20.13 dB"
    assert METRICS["ssim"].format(None) == ""
