"""Model files: safetensors whose header holds all that is needed to build the model again."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ... import __version__
from ...models import Colorizer
from ...pipelines.files import atomic_write
from ..configuration.config import ClassSpec, to_plain_dict
from ..configuration.registry import build_model
from ..console import console
from .checkpoint import CHECKPOINTS, MODEL, newest_intact, not_written

_MAX_FAULTS = 8  # of one file, in one sentence


@dataclass(frozen=True, kw_only=True)
class ModelMetadata:
    """How a model was made: what to build it from, and the run that trained it, in plain JSON.

    `data` is the digest of the shard set it was trained on, `config` the run's resolved configuration, `versions` those
    of the libraries.
    """

    model: ClassSpec
    loss: ClassSpec
    size: int
    step: int
    data: str
    config: dict[str, Any]
    versions: dict[str, str]


def save_model(state: Mapping[str, Tensor], metadata: ModelMetadata, path: Path) -> None:
    """Writes a model's state and metadata to a model file. Raises OSError."""
    # Cloned, since two names for one tensor are more than the format can say.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    text = json.dumps(to_plain_dict(metadata))
    header = {"photochrom": __version__, "recipe": text, "sha256": _digest(text, tensors)}
    with atomic_write(path) as file:
        try:
            save_file(tensors, file, metadata=header)
        except SafetensorError as error:
            raise not_written(path, error) from None


def load_with_metadata(
    path: str | os.PathLike[str], device: str | torch.device = "cpu"
) -> tuple[Colorizer, ModelMetadata]:
    """Returns the trained network, in evaluation mode, and how it was made.

    Raises ValueError when there is no model at `path`, or one that cannot be built.
    """
    file = model_file(Path(path))
    metadata = read_metadata(file)
    model = build_model(metadata.model)
    load_weights(model, file)
    return model.to(device).eval(), metadata


def model_file(path: Path) -> Path:
    """The model file that a path means: itself, a checkpoint's, or a run's final or newest one."""
    if path.is_file():
        return path
    if not path.exists():
        raise ValueError(f"there is no checkpoint at {path}: name a run folder or a model.safetensors")
    if (path / MODEL).is_file():
        return path / MODEL
    if checkpoint := newest_intact(path / CHECKPOINTS, console.print):
        return checkpoint.model
    raise ValueError(f"{path} holds no model.safetensors and no checkpoints: name a run folder or a model.safetensors")


def model_name(path: Path) -> str:
    """What people call the model that a path means: its run, with the step of a checkpoint, or its file."""
    place = path.resolve()
    if place.is_file():
        if place.name != MODEL:
            return place.stem
        place = place.parent
    return f"{place.parents[1].name}-{place.name}" if place.parent.name == CHECKPOINTS else place.name


def read_metadata(file: Path) -> ModelMetadata:
    """The metadata in a model file's header."""
    header = _read_header(file)
    try:
        values = json.loads(header["recipe"])
        return ModelMetadata(**{**values, "model": ClassSpec(**values["model"]), "loss": ClassSpec(**values["loss"])})
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} was written by photochrom {header.get('photochrom')}, and {__version__} cannot read its metadata "
            f"({error!r})"
        ) from None


def load_weights(model: Colorizer, file: Path) -> None:
    """Fills the model from a model file. Raises ValueError when it is damaged, or naming tensors that do not fit."""
    ours = model.state_dict()
    header = _read_header(file)
    with safe_open(file, framework="pt") as opened:
        theirs = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  no mapping
    if faults := state_dict_mismatches(theirs, ours):
        raise ValueError(f"{file} does not fit this model: {faults}")
    if _digest(header["recipe"], theirs) != header["sha256"]:
        raise ValueError(f"{file} is damaged: what it holds does not have the sha256 that its header states")
    model.load_state_dict(theirs)


def state_dict_mismatches(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> str:
    """What keeps the tensors of a file from being those wanted, by name and shape; empty when nothing does."""
    faults = [f"{name} {list(ours[name].shape)} is missing" for name in ours if name not in theirs]
    faults += [f"{name} {list(theirs[name].shape)} is not part of the model" for name in theirs if name not in ours]
    faults += [
        f"{name} is {list(theirs[name].shape)} there and {list(ours[name].shape)} here"
        for name in ours
        if name in theirs and ours[name].shape != theirs[name].shape
    ]
    return "; ".join(faults[:_MAX_FAULTS]) + (f" and {len(faults) - _MAX_FAULTS} more" * (len(faults) > _MAX_FAULTS))


def _read_header(file: Path) -> dict[str, str]:
    try:
        with safe_open(file, framework="pt") as opened:
            header: dict[str, str] = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is no intact model file ({error}): name another checkpoint") from None
    if missing := [key for key in ("recipe", "sha256") if key not in header]:
        raise ValueError(f"{file} was not written by photochrom: its header holds no {missing[0]}")
    return header


def _digest(metadata: str, tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of a metadata and all tensors, in hexadecimal."""
    digest = hashlib.sha256(metadata.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
