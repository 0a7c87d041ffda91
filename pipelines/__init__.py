"""Photographs to Lab batches: packing, shard sets, loaders.

Names are imported when they are first used, so that the packer needs neither DALI nor torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .imaging.color import lab_to_rgb as lab_to_rgb
    from .imaging.color import rgb_to_lab as rgb_to_lab
    from .loading.base import Loader as Loader
    from .loading.batch import LabBatch as LabBatch
    from .loading.cached_loader import CachedLoader as CachedLoader
    from .loading.dali_loader import DaliLoader as DaliLoader
    from .loading.synthetic_loader import SyntheticLoader as SyntheticLoader
    from .loading.torch_loader import TorchLoader as TorchLoader
    from .packing.pack import PackConfig as PackConfig
    from .packing.pack import pack as pack
    from .shards import Sample as Sample
    from .shards import ShardSet as ShardSet

_MODULES = {
    "LabBatch": "loading.batch",
    "lab_to_rgb": "imaging.color",
    "rgb_to_lab": "imaging.color",
    "CachedLoader": "loading.cached_loader",
    "DaliLoader": "loading.dali_loader",
    "Loader": "loading.base",
    "PackConfig": "packing.pack",
    "pack": "packing.pack",
    "Sample": "shards",
    "ShardSet": "shards",
    "SyntheticLoader": "loading.synthetic_loader",
    "TorchLoader": "loading.torch_loader",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
