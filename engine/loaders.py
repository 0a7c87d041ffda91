"""Creates the loaders that a run names, for its device and its processes."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch
from accelerate import Accelerator

from ..pipelines import CachedLoader, DaliLoader, ShardSet, SyntheticLoader, TorchLoader
from ..pipelines.joined_shards import open_shards
from ..pipelines.loading.augment import Crop
from ..pipelines.loading.base import Loader
from ..pipelines.loading.reader import Reader
from ..pipelines.system import has_dali
from .configuration.config import LoaderConfig, RunConfig
from .distributed import resolve_compile, threads_per_process

LOADERS: dict[str, type[Loader]] = {
    "dali": DaliLoader,
    "torch": TorchLoader,
    "cached": CachedLoader,
    "synthetic": SyntheticLoader,
}


def training_loader(
    config: RunConfig, accelerator: Accelerator, *, reader: Reader | None = None, num_samples: int = 0
) -> Loader:
    """Returns the loader that a run trains on; `reader` and `num_samples` as in Loader."""
    data, train = config.data, config.train
    return _create(
        config.loader,
        open_shards(data.train, data.weights),
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
        reader=reader,
        num_samples=num_samples,
    )


def evaluation_loader(
    config: LoaderConfig,
    data: ShardSet | str | PathLike[str],
    accelerator: Accelerator,
    *,
    batch_size: int,
    size: int,
    crop: Crop = "squash",
    samples: Sequence[int] | None = None,
    shared: bool = True,
) -> Loader:
    """Returns a loader of one pass over a set or some of its samples; without `shared`, on each process all of it."""
    return _create(
        config, data, accelerator, shared, batch_size=batch_size, size=size, train=False, crop=crop, samples=samples
    )


def resolve_backend(backend: str, data: ShardSet, device: torch.device) -> str:
    """Returns the loader's name; auto is dali where it is installed and has something to decode."""
    if backend != "auto":
        return backend
    only_crops = data.store == "lab" and device.type == "cpu"  # TorchLoader takes half the time
    return "dali" if has_dali() and not only_crops else "torch"


def _create(
    config: LoaderConfig,
    data: ShardSet | str | PathLike[str],
    accelerator: Accelerator,
    shared: bool = True,
    **settings: Any,
) -> Loader:
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
