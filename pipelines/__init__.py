"""Makes Lab batches from photographs: packing, shard sets, order, augmentation, loaders.

Names are imported when they are first used, so that neither DALI nor torch is loaded by who needs only the packer.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .batch import LabBatch as LabBatch
    from .cached import CachedLoader as CachedLoader
    from .color import lab_to_rgb as lab_to_rgb
    from .color import rgb_to_lab as rgb_to_lab
    from .dali import DaliLoader as DaliLoader
    from .loader import Loader as Loader
    from .packing import PackConfig as PackConfig
    from .packing import pack as pack
    from .shards import Sample as Sample
    from .shards import ShardSet as ShardSet
    from .synthetic import SyntheticLoader as SyntheticLoader
    from .torchloader import TorchLoader as TorchLoader

_MODULES = {
    "LabBatch": "batch",
    "lab_to_rgb": "color",
    "rgb_to_lab": "color",
    "CachedLoader": "cached",
    "DaliLoader": "dali",
    "Loader": "loader",
    "PackConfig": "packing",
    "pack": "packing",
    "Sample": "shards",
    "ShardSet": "shards",
    "SyntheticLoader": "synthetic",
    "TorchLoader": "torchloader",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
