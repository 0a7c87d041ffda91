"""The best validation of a run, and how many validations ago it was."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from ..checkpoints.checkpoint import BestState, Checkpoint
from ..console import plural
from ..evaluation.summary import VALIDATION_METRICS

DEFAULT_METRIC = "rmse_ab"


@dataclass(kw_only=True)
class BestValidation(BestState):
    """The best validation so far; a checkpoint holds its fields."""

    @classmethod
    def resume(cls, metric: str, data: str, checkpoint: Checkpoint | None) -> Self:
        """Returns the best validation that a checkpoint holds; by another metric or on another set, it starts over."""
        if checkpoint is None:
            return cls(metric=metric, data=data)
        saved = checkpoint.best
        if saved and (saved.metric, saved.data) == (metric, data):
            return cls(**asdict(saved))
        # Without a validation set so far, none is missing.
        return cls(metric=metric, data=data, last_step=saved.last_step if saved else checkpoint.step)

    def update(self, value: float, step: int) -> bool:
        """Adds the value of a validation; returns True if it is the best so far."""
        sign = 1 if VALIDATION_METRICS[self.metric].best == "high" else -1
        is_best = sign * value > (-math.inf if self.value is None else sign * self.value)  # never for nan
        if is_best:
            self._before = self.value, self.step
            self.value, self.step = value, step
        self.num_since = 0 if is_best else self.num_since + 1
        self.last_step = step
        return is_best

    def undo(self) -> None:
        """Goes back to the best value before the newest; train.patience still counts from the newest."""
        self.value, self.step = self._before

    def is_exhausted(self, patience: int | None) -> bool:
        """True after `patience` validations without a better value."""
        return patience is not None and self.num_since >= patience

    def describe(self, value: float) -> str:
        """Returns the newest value beside the best: 'ab RMSE 13.90 (best 13.70 at 4,000)'."""
        metric = VALIDATION_METRICS[self.metric]
        best = f" (best {metric.format(self.value)} at {self.step:,})" if self.num_since and self.step else ""
        return f"{metric.format_with_unit(value)}{best}"

    def explain_end(self, link: Path) -> str:
        """Returns the reason why a run ends before its last step; `link` leads to the best checkpoint."""
        metric, validations = VALIDATION_METRICS[self.metric], plural(self.num_since, "validation")
        if self.value is None:
            return f"{validations} without a finite {metric.label}"
        better = f"better {metric.label} than {metric.format(self.value)} of step {self.step:,}"
        return f"{validations} without a {better}, kept in {link}"
