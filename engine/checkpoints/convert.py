"""Weights of other projects into model files of ours, and back."""

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ...models import VGGColorizer
from ...models.checkpoint_formats import LAYOUTS, Eccv16, recognise
from ...pipelines.files import atomic_write
from ..configuration.config import ClassSpec
from ..doctor import versions
from .metadata import ModelMetadata
from .model_file import load_with_metadata, model_file, save_model, state_dict_mismatches

# colorization_release_v2-9b330a0b.pth of richzhang/colorization.
ECCV16_SHA256 = "9b330a0bae53f4ded77b1e23defbf78beaa09c10ebc4c4999e8e4f4a160b93f9"

_PUBLISHED = "the published file, by its sha256"
_LOST = (
    "without the scale factors of Caffe's BatchNorm, which are taken to be 1: if the colours make no sense, try "
    "--bn-scale 1000, what they are after a long training"
)


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What was converted, and what a person should know of it."""

    layout: str
    num_parameters: int
    notes: list[str]


def is_ours(path: Path) -> bool:
    """Whether a path means a model of ours. Raises ValueError for a folder in which there is none."""
    try:
        with safe_open(model_file(path), framework="pt") as file:
            return "photochrom" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def import_weights(source: Path, target: Path, *, size: int, bn_scale: float | None = None) -> Conversion:
    """Makes a model file of another project's weights; nothing in them is executed.

    `size` is the one that the model is to be used at, `bn_scale` Caffe's third blob of BatchNorm where it was dropped.
    Raises ValueError when the file holds more than tensors, or others than one of the known layouts, naming them.
    """
    tensors = _load_tensors(source)
    try:
        name = recognise(tensors)
        layout = LAYOUTS[name]
        arguments = layout.arguments(tensors)
        model = VGGColorizer(**arguments)
        expected = layout.write(model)
        lost = [key for key in expected if key.endswith("norm.scale_factor") and key not in tensors]
        tensors = layout.complete({**tensors, **{key: torch.tensor([bn_scale or 1.0]) for key in lost}}, model)
        if broken := [key for key, tensor in tensors.items() if not tensor.isfinite().all()]:
            raise ValueError(f"{broken[0]} and {len(broken) - 1} more of its tensors hold infinite numbers or nan")
        if faults := state_dict_mismatches(tensors, expected):
            raise ValueError(f"it has the layout {name}, and does not fit it: {faults}")
        if bn_scale is not None and not lost:
            raise ValueError(f"it has the layout {name}, and has lost no scale factors: leave --bn-scale away")
        layout.load(model, tensors)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    digest = _sha256(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_model(model.state_dict(), _metadata(arguments, size=size, source=source, digest=digest), target)
    notes = []
    if isinstance(layout, Eccv16):
        notes.append(_PUBLISHED if digest == ECCV16_SHA256 else f"not the published file: its sha256 is {digest}")
    if lost and bn_scale is None:
        notes.append(_LOST)
    return Conversion(layout=name, num_parameters=_num_parameters(model), notes=notes)


def export_weights(source: Path, target: Path, *, layout: str) -> Conversion:
    """Writes the weights of a model of ours in another project's layout. Raises ValueError when it cannot hold them."""
    model, metadata = load_with_metadata(source)
    if not isinstance(model, VGGColorizer):
        raise ValueError(f"{source} holds a {type(model).__name__}, and other projects' layouts are of VGGColorizer")
    if why := LAYOUTS[layout].misfit(model):
        raise ValueError(f"{source} cannot be written in the layout {layout}: {why}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as file:
        # Tensors of their own: a view would take all that it is a part of along.
        torch.save({name: tensor.contiguous() for name, tensor in LAYOUTS[layout].write(model).items()}, file)
    return Conversion(
        layout=layout, num_parameters=_num_parameters(model), notes=[f"to be read back with --size {metadata.size}"]
    )


def _load_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors in a file of torch.save or safetensors, in float32."""
    try:
        held: Any
        if path.suffix == ".safetensors":
            held = load_file(path)
        else:
            held = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is no file of plain tensors: it is damaged, or holds Python objects, which are refused since "
            f"loading them runs code from the file ({type(error).__name__})"
        ) from None
    if isinstance(held, dict) and isinstance(held.get("state_dict"), dict):  # as Lightning and many scripts save it
        held = held["state_dict"]
    if not isinstance(held, dict) or not all(isinstance(value, Tensor) for value in held.values()):
        raise ValueError(f"{path} holds no state dict, tensors by name: save the model's state_dict()")
    # DataParallel puts its own name before each.
    return {
        str(key).removeprefix("module."): value.float() if value.is_floating_point() else value
        for key, value in held.items()
    }


def _metadata(arguments: dict[str, Any], *, size: int, source: Path, digest: str) -> ModelMetadata:
    """How the model was made, as far as it is known, and the loss that evaluations are to take."""
    if arguments["head"] == "bins":  # without rebalancing: the prior is not in the file
        loss = ClassSpec(class_path="RebalancedCrossEntropy", init_args={"lam": 1.0, "k": 10})
    else:  # what the original project tests by, whatever a model was trained with
        loss = ClassSpec(class_path="L2", init_args={"resolution": "input"})
    return ModelMetadata(
        model=ClassSpec(class_path="VGGColorizer", init_args=arguments),
        loss=loss,
        size=size,
        step=0,
        data="",
        config={"converted": {"file": source.name, "sha256": digest}},
        versions=versions(),
    )


def _num_parameters(model: VGGColorizer) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
