"""The learning rate of every step, a function of nothing but the configuration."""

import math

from ..configuration.config import OptimConfig

_RISE = 0.3  # of a one-cycle run
_BELOW, _FAR_BELOW = 25, 1e4  # one-cycle begins at the highest rate / 25, and ends at that / 10,000


def learning_rate(optim: OptimConfig, step: int, *, total_steps: int, batch_size: int) -> float:
    """The rate of a step, of which the first is 0 and the last `total_steps` - 1; batches are over all processes."""
    return scale(optim, batch_size) * _scheduled(optim, step, total_steps)


def scale(optim: OptimConfig, batch_size: int) -> float:
    """What batches of this size multiply the rate by: Goyal et al. (2017) linearly, Krizhevsky (2014) by the root."""
    power = {"none": 0.0, "linear": 1.0, "sqrt": 0.5}[optim.lr_scaling]
    return float((batch_size / optim.reference_batch_size) ** power)


def _scheduled(optim: OptimConfig, step: int, total_steps: int) -> float:
    if optim.schedule == "one_cycle":
        return _one_cycle(optim.lr, step, (optim.warmup_steps or _RISE * total_steps) - 1, total_steps - 1)
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    if optim.schedule == "cosine":
        return _cosine(optim.lr, 0.0, (step - optim.warmup_steps) / (total_steps - optim.warmup_steps))
    return next((lr for milestone, lr in reversed(optim.milestones) if step >= milestone), optim.lr)


def _one_cycle(lr: float, step: int, top: float, last: int) -> float:
    """Smith and Topin (2017), as torch.optim.lr_scheduler.OneCycleLR anneals it."""
    if step <= top:
        return _cosine(lr / _BELOW, lr, step / top if top > 0 else 1.0)
    return _cosine(lr, lr / _BELOW / _FAR_BELOW, (step - top) / (last - top))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
