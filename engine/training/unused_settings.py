"""Settings that were changed and that a run does not use."""

from collections.abc import Callable, Iterator
from typing import Any

from ...pipelines import DaliLoader
from ..configuration.config import DataConfig, RunConfig, flatten, to_plain_dict
from .loop import Run


def _decodes_on_gpu(run: Run) -> bool:
    return isinstance(run.loader, DaliLoader) and run.accelerator.device.type == "cuda"


_Condition = tuple[str, Callable[[Run], Any]]
_CACHED: _Condition = ("loader.backend=cached", lambda run: run.config.loader.backend == "cached")
_MULTI_PROCESS: _Condition = ("several processes", lambda run: run.accelerator.num_processes > 1)

# The condition under which a setting has an effect, in words and as a function.
_CONDITIONS: dict[str, _Condition] = {
    "data.scale": ("data.crop=random_resized", lambda run: run.config.data.crop == "random_resized"),
    "loader.cache_gib": _CACHED,
    "loader.cache_location": _CACHED,
    "loader.hw_decoder_load": ("DALI on a GPU", _decodes_on_gpu),
    "log.validate_every": ("data.val", lambda run: run.config.data.val),
    "schedule.reference_batch_size": ("schedule.lr_scaling", lambda run: run.config.schedule.lr_scaling != "none"),
    "train.grad_compression": _MULTI_PROCESS,
    "train.epochs": ("train.steps=null", lambda run: run.config.train.steps is None),
    "train.sync_batchnorm": _MULTI_PROCESS,
}


def unused_settings(run: Run) -> Iterator[str]:
    """Yields a sentence for each setting that differs from its default and has no effect."""
    defaults = flatten(to_plain_dict(RunConfig(out=run.config.out, data=DataConfig(train=run.config.data.train))))
    for name, value in flatten(to_plain_dict(run.config)).items():
        words, is_met = _CONDITIONS.get(name, ("", lambda run: True))
        if value != defaults.get(name) and not is_met(run):
            yield f"{name}={value} has no effect without {words}"
