"""Settings that were changed and that a run does not use."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ...pipelines import DaliLoader
from ..configuration.config import DataConfig, RunConfig, flatten, to_plain_dict
from .loop import Run


class _Condition(NamedTuple):
    """The condition under which a setting has an effect, in words and as a function."""

    words: str
    is_met: Callable[[Run], Any]


def _decodes_on_gpu(run: Run) -> bool:
    return isinstance(run.loader, DaliLoader) and run.accelerator.device.type == "cuda"


_CACHED = _Condition("loader.backend=cached", lambda run: run.config.loader.backend == "cached")
_MULTI_PROCESS = _Condition("several processes", lambda run: run.accelerator.num_processes > 1)
_CONDITIONS: dict[str, _Condition] = {
    "data.scale": _Condition("data.crop=random_resized", lambda run: run.config.data.crop == "random_resized"),
    "loader.cache_gib": _CACHED,
    "loader.cache_location": _CACHED,
    "loader.hw_decoder_load": _Condition("DALI on a GPU", _decodes_on_gpu),
    "log.validate_every": _Condition("data.val", lambda run: run.config.data.val),
    "optim.reference_batch_size": _Condition("optim.lr_scaling", lambda run: run.config.optim.lr_scaling != "none"),
    "train.grad_compression": _MULTI_PROCESS,
    "train.epochs": _Condition("train.steps=null", lambda run: run.config.train.steps is None),
    "train.sync_batchnorm": _MULTI_PROCESS,
}


def unused_settings(run: Run) -> Iterator[str]:
    """Yields a sentence for each setting that differs from its default and has no effect."""
    defaults = flatten(to_plain_dict(RunConfig(out=run.config.out, data=DataConfig(train=run.config.data.train))))
    for name, value in flatten(to_plain_dict(run.config)).items():
        condition = _CONDITIONS.get(name)
        if condition and value != defaults.get(name) and not condition.is_met(run):
            yield f"{name}={value} has no effect without {condition.words}"
