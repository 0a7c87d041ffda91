"""The learning rate of every step, as a function of the configuration alone."""

import math

from ..configuration.config import ScheduleConfig

_PCT_START = 0.3  # the share of a one-cycle run in which the learning rate rises
_DIV_FACTOR, _FINAL_DIV_FACTOR = 25, 1e4  # one-cycle starts at lr / 25, and ends at that / 10,000


def learning_rate(schedule: ScheduleConfig, step: int, *, lr: float, total_steps: int, batch_size: int) -> float:
    """Returns the learning rate of a step from 0 to `total_steps` - 1.

    `lr` is the highest rate, of batches of the reference size; `batch_size` is over all processes.
    """
    return lr_scale(schedule, batch_size) * _scheduled(schedule, lr, step, total_steps)


def lr_scale(schedule: ScheduleConfig, batch_size: int) -> float:
    """Returns the factor for batches of this size: linear as Goyal et al. (2017), sqrt as Krizhevsky (2014)."""
    power = {"none": 0.0, "linear": 1.0, "sqrt": 0.5}[schedule.lr_scaling]
    return float((batch_size / schedule.reference_batch_size) ** power)


def _scheduled(schedule: ScheduleConfig, lr: float, step: int, total_steps: int) -> float:
    if schedule.type == "one_cycle":
        return _one_cycle(lr, step, (schedule.warmup_steps or _PCT_START * total_steps) - 1, total_steps - 1)
    if step < schedule.warmup_steps:
        return lr * (step + 1) / schedule.warmup_steps
    if schedule.type == "cosine":
        return _cosine(lr, 0.0, (step - schedule.warmup_steps) / (total_steps - schedule.warmup_steps))
    return next((changed for milestone, changed in reversed(schedule.milestones) if step >= milestone), lr)


def _one_cycle(lr: float, step: int, peak_step: float, last_step: int) -> float:
    """Smith and Topin (2017), annealed as torch.optim.lr_scheduler.OneCycleLR does."""
    if step <= peak_step:
        return _cosine(lr / _DIV_FACTOR, lr, step / peak_step if peak_step > 0 else 1.0)
    return _cosine(lr, lr / _DIV_FACTOR / _FINAL_DIV_FACTOR, (step - peak_step) / (last_step - peak_step))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
