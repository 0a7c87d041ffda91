"""The learning rate of every step, as a function of the configuration alone."""

import math

from ..configuration.config import OptimConfig

_PCT_START = 0.3  # the share of a one-cycle run in which the learning rate rises
_DIV_FACTOR, _FINAL_DIV_FACTOR = 25, 1e4  # one-cycle starts at lr / 25, and ends at that / 10,000


def learning_rate(optim: OptimConfig, step: int, *, total_steps: int, batch_size: int) -> float:
    """Returns the learning rate of a step from 0 to `total_steps` - 1; `batch_size` is over all processes."""
    return lr_scale(optim, batch_size) * _scheduled(optim, step, total_steps)


def lr_scale(optim: OptimConfig, batch_size: int) -> float:
    """Returns the factor for batches of this size: linear as Goyal et al. (2017), sqrt as Krizhevsky (2014)."""
    power = {"none": 0.0, "linear": 1.0, "sqrt": 0.5}[optim.lr_scaling]
    return float((batch_size / optim.reference_batch_size) ** power)


def _scheduled(optim: OptimConfig, step: int, total_steps: int) -> float:
    if optim.schedule == "one_cycle":
        return _one_cycle(optim.lr, step, (optim.warmup_steps or _PCT_START * total_steps) - 1, total_steps - 1)
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    if optim.schedule == "cosine":
        return _cosine(optim.lr, 0.0, (step - optim.warmup_steps) / (total_steps - optim.warmup_steps))
    return next((lr for milestone, lr in reversed(optim.milestones) if step >= milestone), optim.lr)


def _one_cycle(lr: float, step: int, peak_step: float, last_step: int) -> float:
    """Smith and Topin (2017), annealed as torch.optim.lr_scheduler.OneCycleLR does."""
    if step <= peak_step:
        return _cosine(lr / _DIV_FACTOR, lr, step / peak_step if peak_step > 0 else 1.0)
    return _cosine(lr, lr / _DIV_FACTOR / _FINAL_DIV_FACTOR, (step - peak_step) / (last_step - peak_step))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
