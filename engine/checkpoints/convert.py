"""Converts weights of other projects to Photochrom's model files, and back."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...models import VGGColorizer
from ...models.checkpoint_formats import FORMATS, WRITABLE, detect_format, find_networks, state_dicts
from ...pipelines.files import atomic_write, sha256_of, utf8_path
from ..configuration.config import ClassSpec
from ..doctor import versions
from .model_file import ModelMetadata, load_with_metadata, model_file, save_model, state_dict_mismatches
from .weight_file import load_weight_file

_EMA = re.compile(r"(?i)(?<![a-z])ema(?![a-z])")  # an average of the weights, as in params_ema
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
        with utf8_path(model_file(path)) as opened, safe_open(opened, framework="pt") as file:
            return "photochrom" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def import_weights(source: Path, target: Path, *, size: int, bn_scale: float | None = None) -> Conversion:
    """Converts another project's weights to a model file; no code in them is executed.

    `size` is the side in pixels of the network's input, `bn_scale` Caffe's third blob of BatchNorm if it is missing.
    Raises ValueError when the file holds more than tensors, or tensors that fit no known format; it names them.
    """
    content = load_weight_file(source)
    try:
        where, tensors, left_out = _choose_network(content)
        name = detect_format(tensors)
        source_format = FORMATS[name]
        init_args = source_format.init_args(tensors)
        with torch.device("meta"):  # nothing is allocated for a model that the file does not hold
            skeleton = VGGColorizer(**init_args)
        expected = source_format.expected(skeleton)
        missing = [key for key in expected if key.endswith("norm.scale_factor") and key not in tensors]
        scales = {key: torch.tensor([bn_scale or 1.0]) for key in missing}
        if faults := state_dict_mismatches(source_format.with_optional({**tensors, **scales}, skeleton), expected):
            raise ValueError(f"it has the format {name}, but does not fit it: {faults}")
        model = VGGColorizer(**init_args)
        tensors = source_format.with_optional({**_to_float(tensors), **scales}, model)
        if nonfinite := [key for key, tensor in tensors.items() if not tensor.isfinite().all()]:
            raise ValueError(f"{nonfinite[0]} and {len(nonfinite) - 1} more of its tensors have infinite or nan values")
        if bn_scale is not None and not missing:
            raise ValueError(f"it has the format {name}, and no scale factors are missing: omit --bn-scale")
        source_format.load(model, tensors)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    digest = sha256_of(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_model(model.state_dict(), _metadata(init_args, size=size, source=source, digest=digest), target)
    others = f", the averaged weights; left out: {', '.join(left_out)}" if left_out else ""
    notes = [f"found in {where}{others}"] * bool(where) + [_NO_SCALE] * bool(missing and bn_scale is None)
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


def _choose_network(content: Any) -> tuple[str, dict[str, Tensor], list[str]]:
    """Returns the place and the tensors of the network in a checkpoint, of several the averaged one; others' places.

    Raises ValueError when there are several, or no tensors at all.
    """
    found = find_networks(content)
    averaged = {where: tensors for where, tensors in found.items() if _EMA.search(where)}
    if len(chosen := averaged or found) > 1:
        raise ValueError(f"it holds several networks ({', '.join(chosen)}): torch.save the one that you want alone")
    for where, tensors in (*chosen.items(), *state_dicts(content)):
        return where, tensors, [other for other in found if other != where]
    raise ValueError("it is not a state dict, tensors by name: save the model's state_dict()")


def _to_float(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors in float32. Raises ValueError for one whose values are not all in the file."""
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.untyped_storage().nbytes() < tensor.nbytes:
            raise ValueError(f"{name} has fewer values than its shape: save the model's state_dict()")
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


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
