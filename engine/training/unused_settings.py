"""Settings that were changed and that a run does not use: it says so, where a person may wait for their effect."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ...pipelines import DaliLoader
from ..configuration.config import DataConfig, RunConfig, flatten, to_plain_dict
from .loop import Run


class _Need(NamedTuple):
    """What must be for a setting to count, in words and in fact."""

    said: str
    is_met: Callable[[Run], Any]


def _decodes_on_gpu(run: Run) -> bool:
    return isinstance(run.loader, DaliLoader) and run.accelerator.device.type == "cuda"


_CACHED = _Need("loader.backend=cached", lambda run: run.config.loader.backend == "cached")
_MANY = _Need("several processes", lambda run: run.accelerator.num_processes > 1)
_NEEDS: dict[str, _Need] = {
    "data.scale": _Need("data.crop=random_resized", lambda run: run.config.data.crop == "random_resized"),
    "loader.cache_gib": _CACHED,
    "loader.cache_location": _CACHED,
    "loader.hw_decoder_load": _Need("DALI on a GPU", _decodes_on_gpu),
    "log.validate_every": _Need("data.val", lambda run: run.config.data.val),
    "optim.reference_batch_size": _Need("optim.lr_scaling", lambda run: run.config.optim.lr_scaling != "none"),
    "train.grad_compression": _MANY,
    "train.epochs": _Need("train.steps=null", lambda run: run.config.train.steps is None),
    "train.sync_batchnorm": _MANY,
}


def without_effect(run: Run) -> Iterator[str]:
    """A sentence for each such setting."""
    defaults = flatten(to_plain_dict(RunConfig(out=run.config.out, data=DataConfig(train=run.config.data.train))))
    for name, value in flatten(to_plain_dict(run.config)).items():
        need = _NEEDS.get(name)
        if need and value != defaults.get(name) and not need.is_met(run):
            yield f"{name}={value} has no effect without {need.said}"
