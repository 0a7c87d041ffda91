"""The loaders that a run can name, made for the device and the processes it has."""

from typing import Any

import torch
from accelerate import Accelerator

from ..pipelines import CachedLoader, DaliLoader, ShardSet, SyntheticLoader, TorchLoader
from ..pipelines.installed import has_dali
from ..pipelines.loading.base import Loader
from .configuration.config import LoaderConfig, RunConfig
from .distributed import resolve_compile, threads_per_process

LOADERS: dict[str, type[Loader]] = {
    "dali": DaliLoader,
    "torch": TorchLoader,
    "cached": CachedLoader,
    "synthetic": SyntheticLoader,
}


def make_loader(
    config: LoaderConfig, data: Any, accelerator: Accelerator, *, shared: bool = True, **settings: Any
) -> Loader:
    """A loader onto this process's device: of its share of each batch, or, if not `shared`, of all of it.

    `data` is a shard set or its folder; `settings` are the loader's own.
    """
    data = data if isinstance(data, ShardSet) else ShardSet.open(data)
    backend = resolve_backend(config.backend, data, accelerator.device)
    if backend == "dali":
        settings["hw_decoder_load"] = config.hw_decoder_load
    if backend == "cached":
        settings |= {"cache_gib": config.cache_gib, "cache_location": config.cache_location}
    return LOADERS[backend](
        data,
        device=accelerator.device,
        threads=config.threads or threads_per_process(),
        prefetch_batches=config.prefetch_batches,
        shuffle_block_size=config.shuffle_block_size,
        rank=accelerator.process_index if shared else 0,
        world_size=accelerator.num_processes if shared else 1,
        **settings,
    )


def training_loader(config: RunConfig, accelerator: Accelerator) -> Loader:
    """The loader that a run trains on."""
    data, train = config.data, config.train
    return make_loader(
        config.loader,
        data.train,
        accelerator,
        batch_size=train.batch_size,
        size=data.size,
        train=True,
        seed=train.seed,
        parts=train.grad_accum_steps,
        crop=data.crop,
        scale=data.scale,
        flip=data.flip,
        compiled=resolve_compile(train, accelerator.device) != "off",
    )


def resolve_backend(backend: str, data: ShardSet, device: torch.device) -> str:
    """The loader that is meant; auto is DALI's where it is installed and has something to decode."""
    if backend != "auto":
        return backend
    only_cuts = data.store == "lab" and device.type == "cpu"  # which threads do in half the time
    return "dali" if has_dali() and not only_cuts else "torch"
