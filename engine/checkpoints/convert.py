"""Converts weights of other projects to Photochrom's model files, and back."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ...models import VGGColorizer
from ...models.checkpoint_formats import FORMATS, WRITABLE, detect_format
from ...pipelines.files import atomic_write, sha256_of
from ..configuration.config import ClassSpec
from ..doctor import versions
from .model_file import ModelMetadata, load_with_metadata, model_file, save_model, state_dict_mismatches

_NO_SCALE = (
    "the scale factors of Caffe's BatchNorm are missing and taken as 1: if the colours make no sense, try "
    "--bn-scale 1000, their value after a long training"
)


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A converted file's format and size, and notes for the user."""

    format: str
    num_parameters: int
    notes: list[str]


def is_photochrom_model(path: Path) -> bool:
    """Returns True for a run, a checkpoint or a model file of Photochrom. Raises ValueError for any other folder."""
    try:
        with safe_open(model_file(path), framework="pt") as file:
            return "photochrom" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def import_weights(source: Path, target: Path, *, size: int, bn_scale: float | None = None) -> Conversion:
    """Converts another project's weights to a model file; no code in them is executed.

    `size` is the side in pixels of the network's input, `bn_scale` Caffe's third blob of BatchNorm if it is missing.
    Raises ValueError when the file holds more than tensors, or tensors that fit no known format; it names them.
    """
    tensors = _load_tensors(source)
    try:
        name = detect_format(tensors)
        source_format = FORMATS[name]
        init_args = source_format.init_args(tensors)
        model = VGGColorizer(**init_args)
        expected = source_format.expected(model)
        missing = [key for key in expected if key.endswith("norm.scale_factor") and key not in tensors]
        scales = {key: torch.tensor([bn_scale or 1.0]) for key in missing}
        tensors = source_format.with_optional({**tensors, **scales}, model)
        if nonfinite := [key for key, tensor in tensors.items() if not tensor.isfinite().all()]:
            raise ValueError(f"{nonfinite[0]} and {len(nonfinite) - 1} more of its tensors have infinite or nan values")
        if faults := state_dict_mismatches(tensors, expected):
            raise ValueError(f"it has the format {name}, but does not fit it: {faults}")
        if bn_scale is not None and not missing:
            raise ValueError(f"it has the format {name}, and no scale factors are missing: omit --bn-scale")
        source_format.load(model, tensors)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    digest = sha256_of(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_model(model.state_dict(), _metadata(init_args, size=size, source=source, digest=digest), target)
    notes = [_NO_SCALE] if missing and bn_scale is None else []
    return Conversion(format=name, num_parameters=_num_parameters(model), notes=notes)


def export_weights(source: Path, target: Path, *, to: str) -> Conversion:
    """Writes a model's weights in another project's format. Raises ValueError when the format does not support it."""
    model, metadata = load_with_metadata(source)
    if not isinstance(model, VGGColorizer):
        raise ValueError(f"{source} is a {type(model).__name__}, and other projects' formats store VGGColorizer")
    if reason := WRITABLE[to].unsupported(model):
        raise ValueError(f"{source} cannot be written in the format {to}: {reason}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as file:
        # Contiguous copies, since torch.save stores the whole storage of a view.
        torch.save({name: tensor.contiguous() for name, tensor in WRITABLE[to].expected(model).items()}, file)
    return Conversion(
        format=to, num_parameters=_num_parameters(model), notes=[f"convert it back with --size {metadata.size}"]
    )


def _load_tensors(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a torch.save or safetensors file by name, in float32."""
    try:
        content: Any
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is not a file of plain tensors: it is damaged, or has Python objects, which are refused because "
            f"loading them runs code from the file ({type(error).__name__})"
        ) from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):  # as Lightning saves it
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} is not a state dict, tensors by name: save the model's state_dict()")
    # DataParallel adds the prefix.
    return {
        str(key).removeprefix("module."): value.float() if value.is_floating_point() else value
        for key, value in content.items()
    }


def _metadata(init_args: dict[str, Any], *, size: int, source: Path, digest: str) -> ModelMetadata:
    """Returns the source of the weights, and the loss that evaluations use."""
    if init_args["head"] == "bins":  # without rebalancing: the prior is not in the file
        loss = ClassSpec(class_path="RebalancedCrossEntropy", init_args={"lam": 1.0, "k": 10})
    else:  # the original project tests all its models by it
        loss = ClassSpec(class_path="L2", init_args={"resolution": "input"})
    return ModelMetadata(
        model=ClassSpec(class_path="VGGColorizer", init_args=init_args),
        loss=loss,
        size=size,
        step=0,
        data="",
        config={"converted": {"file": source.name, "sha256": digest}},
        versions=versions(),
    )


def _num_parameters(model: VGGColorizer) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
