import math

import pytest
import torch
from photochrom.engine.configuration.config import ScheduleConfig
from photochrom.engine.training.schedule import learning_rate
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, MultiStepLR, OneCycleLR


def lrs(steps: int, batch_size: int = 40, **settings: object) -> list[float]:
    schedule = ScheduleConfig(**settings)
    return [learning_rate(schedule, step, lr=0.1, total_steps=steps, batch_size=batch_size) for step in range(steps)]


def torch_lrs(steps: int, make: type[LRScheduler], *arguments: object, **settings: object) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule, rates = make(optimizer, *arguments, **settings), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("steps", [1, 2, 10, 100])
def test_schedules_are_those_of_torch(steps: int) -> None:
    assert lrs(steps) == [0.1] * steps
    assert lrs(steps, type="cosine") == pytest.approx(torch_lrs(steps, CosineAnnealingLR, T_max=steps))
    milestones = [(3, 0.01), (7, 0.001)]
    expected = torch_lrs(steps, MultiStepLR, milestones=[3, 7])
    assert lrs(steps, type="step", milestones=milestones) == pytest.approx(expected)


@pytest.mark.parametrize("steps", [10, 100, 1000])
def test_one_cycle_is_that_of_torch(steps: int) -> None:
    assert lrs(steps, type="one_cycle") == pytest.approx(torch_lrs(steps, OneCycleLR, max_lr=0.1, total_steps=steps))
    expected = torch_lrs(steps, OneCycleLR, max_lr=0.1, total_steps=steps, pct_start=0.5)
    assert lrs(steps, type="one_cycle", warmup_steps=steps // 2) == pytest.approx(expected)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_short_cycle_is_still_one(steps: int) -> None:
    assert all(0 < rate <= 0.1 for rate in lrs(steps, type="one_cycle"))


def test_the_rate_warms_up() -> None:
    expected = torch_lrs(5, LinearLR, start_factor=1 / 5, total_iters=4)
    assert lrs(20, warmup_steps=5)[:5] == pytest.approx(expected)
    assert lrs(20, warmup_steps=5)[5:] == [0.1] * 15
    assert lrs(20, warmup_steps=5, type="cosine")[5:] == pytest.approx(torch_lrs(15, CosineAnnealingLR, T_max=15))
    assert lrs(3, warmup_steps=5) == pytest.approx([0.02, 0.04, 0.06])


def test_larger_batches_learn_faster() -> None:
    assert lrs(1, batch_size=160, lr_scaling="linear") == pytest.approx([0.4])
    assert lrs(1, batch_size=160, lr_scaling="sqrt") == pytest.approx([0.2])
    assert lrs(1, batch_size=160, lr_scaling="sqrt", reference_batch_size=80) == pytest.approx([0.1 * math.sqrt(2)])
    assert lrs(1, batch_size=160) == [0.1]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"type": "step"}, r"schedule.type=step needs schedule.milestones"),
        ({"milestones": [(1, 0.1)]}, r"schedule.type=constant takes no schedule.milestones"),
        ({"warmup_steps": -1}, r"schedule.warmup_steps=-1 is negative"),
        ({"reference_batch_size": 0}, r"schedule.reference_batch_size=0 is not a positive number"),
    ],
)
def test_settings_that_make_no_sense(settings: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ScheduleConfig(**settings)
