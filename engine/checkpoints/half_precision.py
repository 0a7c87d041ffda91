"""Model files in half precision: half the size, for a difference in colour that is measured."""

# Shapes: S pixels.

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import skimage
import torch
from skimage.color import rgb2lab
from skimage.transform import resize
from torch import Tensor

from ...models import Colorizer
from .model_file import ModelMetadata, load_with_metadata, save_model

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee")  # of scikit-image's, on which the difference is measured

# The folders of absolute paths, of ~ and of ..: they mean nothing on another machine.
_FOLDERS = re.compile(r"(?<![\w/:.~-])(?:~|\.\.)?/(?:[^\s/,;'\"\])]+/)*")


@dataclass(frozen=True, kw_only=True)
class HalfPrecisionResult:
    """The size of the file, the names of the weights that stay in fp32, and the differences in ab from the original."""

    num_parameters: int
    num_bytes: int
    kept: list[str]
    rmse_ab: float
    max_ab: float


def export_half(
    checkpoint: Path, out: Path, *, scores: list[dict[str, Any]]
) -> tuple[HalfPrecisionResult, ModelMetadata]:
    """Writes a model with weights in fp16 to `out`, which must not exist; returns its size and its metadata.

    `load` returns it in fp32. `scores`, entries of evaluate's summary.json, go into the header; without any, those of
    `checkpoint` stay. Paths in the header lose their folders.
    """
    network, metadata = load_with_metadata(checkpoint)
    parameters = dict(network.named_parameters())
    state = {name: to_half(tensor) if name in parameters else tensor for name, tensor in network.state_dict().items()}
    metadata = replace(
        metadata,
        config=without_folders(metadata.config),
        provenance=without_folders(metadata.provenance),
        scores=without_folders(scores or metadata.scores),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    save_model(state, metadata, out)
    differences = torch.cat(list(_differences(network, load_with_metadata(out)[0], metadata.size)))
    result = HalfPrecisionResult(
        num_parameters=sum(parameter.numel() for parameter in parameters.values()),
        num_bytes=out.stat().st_size,
        kept=[name for name in parameters if state[name].dtype != torch.float16],
        rmse_ab=differences.square().mean().sqrt().item(),
        max_ab=differences.abs().max().item(),
    )
    return result, metadata


def to_half(weights: Tensor) -> Tensor:
    """Returns weights in fp16, or as they are where a value is beyond its range.

    Not for statistics of BatchNorm and other buffers: they are small, and their range has no bound.
    """
    half = weights.half()
    return half if half.isfinite().all() else weights


def without_folders(value: Any) -> Any:
    """Returns plain values whose texts have lost the folders of absolute paths, of ~ and of ..; s3:// stays."""
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    return _FOLDERS.sub("", value) if isinstance(value, str) else value


@torch.inference_mode()
def _differences(one: Colorizer, other: Colorizer, size: int) -> Iterator[Tensor]:
    """Yields the differences between the ab of two networks, flat, on each photograph squashed to (S, S)."""
    for name in PHOTOGRAPHS:
        lab = rgb2lab(resize(getattr(skimage.data, name)(), (size, size), anti_aliasing=True))
        L = torch.from_numpy(lab[..., 0]).float()[None, None]
        yield (one(L).ab() - other(L).ab()).flatten()
