"""The loaders that a run can name, made for the device and the processes it has."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..pipelines import DaliLoader, ShardSet
from ..pipelines.loader import Loader
from .config import LoaderConfig
from .launch import threads_per_process

LOADERS = {"dali": DaliLoader}


def make_loader(
    config: LoaderConfig, data: Path | ShardSet, accelerator: Accelerator, *, shared: bool = True, **settings: Any
) -> Loader:
    """A loader onto this process's device: of its share of each batch, or, if not `shared`, of all of it.

    `settings` are the loader's own.
    """
    return LOADERS[config.backend](
        data,
        device=accelerator.device,
        threads=config.threads or threads_per_process(),
        prefetch=config.prefetch,
        rank=accelerator.process_index if shared else 0,
        world_size=accelerator.num_processes if shared else 1,
        **settings,
    )
