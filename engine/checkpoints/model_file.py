"""Model files: safetensors whose header holds all that is needed to build the model."""

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ... import __version__
from ...models import Colorizer
from ...pipelines.files import atomic_write, bounded_name, utf8_path
from ...pipelines.structured import check_counts, parse_json, validated
from ..configuration.config import ClassSpec, check_image_size, to_plain_dict
from ..configuration.parser import nearest
from ..configuration.registry import build_model
from ..console import console
from .checkpoint import CHECKPOINTS, MODEL, newest_intact, to_os_error
from .pretrained import pretrained_models
from .weight_file import describe_other_kind

_MAX_FAULTS = 8  # in one sentence


@dataclass(frozen=True, kw_only=True)
class ModelMetadata:
    """The class and arguments of a model, and the run that trained it, in plain JSON.

    Args:
        model: Class and arguments of the network.
        loss: Class and arguments of the loss.
        size: Side of the training crops in pixels.
        step: Number of optimizer steps.
        data: Digest of the training set.
        config: Resolved configuration of the run.
        versions: Versions of the libraries.
        provenance: Commit, command and time of the run; see `engine.provenance`.
        training: Number of photographs in the training set, images drawn from it, seconds, machine.
        scores: Entries of `evaluate`'s summary.json that `export` was given.
    """

    model: ClassSpec
    loss: ClassSpec
    size: int
    step: int
    data: str
    config: dict[str, Any]
    versions: dict[str, str]
    provenance: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    scores: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_image_size(self.size, "size=")
        check_counts(self, "step")


def save_model(state: Mapping[str, Tensor], metadata: ModelMetadata, path: Path) -> None:
    """Writes a model's state and metadata to a model file. Raises OSError."""
    # Cloned, since the format has no two names for one tensor.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    text = json.dumps(to_plain_dict(metadata))
    header = {"photochrom": __version__, "recipe": text, "sha256": _digest(text, tensors)}
    with atomic_write(path) as file:
        try:
            save_file(tensors, file, metadata=header)
        except SafetensorError as error:
            raise to_os_error(path, error) from None


def load_with_metadata(
    path: str | os.PathLike[str], device: str | torch.device = "cpu"
) -> tuple[Colorizer, ModelMetadata]:
    """Returns the trained network, in evaluation mode, and its metadata.

    Raises ValueError when there is no model at `path`, or one that cannot be built.
    """
    file = model_file(Path(path))
    metadata = read_metadata(file)
    check_shapes(file, metadata.model)
    model = build_model(metadata.model)
    load_weights(model, file)
    return model.to(device).eval(), metadata


def model_file(path: Path) -> Path:
    """Returns the model file of a path: the file itself, a checkpoint's, or a run's final or newest one.

    Where there is no file or folder of that name, it may be the name of a shipped model.
    """
    if path.is_file():
        return path
    if not path.exists():
        shipped = pretrained_models()
        if str(path) in shipped:
            return shipped[str(path)]
        names = f" ({', '.join(shipped)})" if shipped else " (this installation has none)"
        guess = nearest(str(path), shipped)
        name = " Name" if guess else ": name"
        raise ValueError(
            f"there is no checkpoint at {path}{guess}{name} a run folder, a model.safetensors or a shipped model{names}"
        )
    if (path / MODEL).is_file():
        return path / MODEL
    if checkpoint := newest_intact(path / CHECKPOINTS, console.print):
        return checkpoint.model
    raise ValueError(f"{path} holds no model.safetensors and no checkpoints: name a run folder or a model.safetensors")


def model_name(path: Path) -> str:
    """Returns a name for the model of a path: its run, with the step of a checkpoint, or its file."""
    resolved = path.resolve()
    if resolved.is_file():
        if resolved.name != MODEL:
            return resolved.stem
        resolved = resolved.parent
    return f"{resolved.parents[1].name}-{resolved.name}" if resolved.parent.name == CHECKPOINTS else resolved.name


def unique_name(name: str, used: Collection[str]) -> str:
    """Returns the name, cut if it is long, or the first of NAME-2, NAME-3 ... that is not used."""
    name = bounded_name(name)  # two of them and an ending are the name of a file
    return next(other for other in chain([name], (f"{name}-{n}" for n in count(2))) if other not in used)


def read_metadata(file: Path) -> ModelMetadata:
    """Returns the metadata in a model file's header."""
    header = _read_header(file)
    try:
        return validated(ModelMetadata, parse_json(header["recipe"], "its recipe"), "its recipe")
    except ValueError as error:
        raise ValueError(
            f"{file} was written by photochrom {header.get('photochrom', ''):.20}, and {__version__} cannot read its "
            f"metadata ({error})"
        ) from None


def check_shapes(file: Path, spec: ClassSpec) -> None:
    """Raises ValueError when a file's tensors are not those of the model; reads their shapes, and allocates nothing."""
    try:
        with torch.device("meta"):
            expected = build_model(spec).state_dict()
    except ValueError:  # or a user's class whose constructor computes with its weights
        return
    with _opened(file) as opened:
        shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118  not a mapping
    tensors = {name: SimpleNamespace(shape=torch.Size(shape)) for name, shape in shapes.items()}
    if faults := state_dict_mismatches(tensors, expected):
        raise ValueError(f"{file} does not fit this model: {faults}")


def load_weights(model: Colorizer, file: Path) -> None:
    """Loads a model file into the model. Raises ValueError for a damaged file, or naming tensors that do not fit."""
    tensors = read_tensors(file)
    if faults := state_dict_mismatches(tensors, model.state_dict()):
        raise ValueError(f"{file} does not fit this model: {faults}")
    model.load_state_dict(tensors)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Returns the tensors of a model file by name. Raises ValueError for damage, and for infinite or nan values."""
    header = _read_header(file)
    with _opened(file) as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  not a mapping
    if _digest(header["recipe"], tensors) != header["sha256"]:
        raise ValueError(f"{file} is damaged: its sha256 is not the one in its header")
    if nonfinite := [name for name, tensor in tensors.items() if not tensor.float().isfinite().all()]:
        raise ValueError(
            f"{file} cannot be used: {nonfinite[0]} and {len(nonfinite) - 1} more of its tensors have infinite or nan "
            "values; name another checkpoint"
        )
    return tensors


def state_dict_mismatches(tensors: Mapping[str, Any], expected: Mapping[str, Tensor]) -> str:
    """Describes how tensors differ from the expected ones, by name and shape; empty if they do not."""
    faults = [f"{name} {list(expected[name].shape)} is missing" for name in expected if name not in tensors]
    faults += [
        f"{name} {list(tensors[name].shape)} is not part of the model" for name in tensors if name not in expected
    ]
    faults += [
        f"{name} is {list(tensors[name].shape)} there and {list(expected[name].shape)} here"
        for name in expected
        if name in tensors and expected[name].shape != tensors[name].shape
    ]
    return "; ".join(faults[:_MAX_FAULTS]) + (f" and {len(faults) - _MAX_FAULTS} more" * (len(faults) > _MAX_FAULTS))


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """Opens a safetensors file. Raises ValueError for another file, and for tensors that torch does not have."""
    try:
        with utf8_path(file) as path, safe_open(path, framework="pt") as opened:
            yield opened
    except (SafetensorError, OSError) as error:
        what = describe_other_kind(file) or (
            f"is not an intact model file ({error}): name another one; 'photochrom convert' makes one of weights of "
            "another project"
        )
        raise ValueError(f"{file} {what}") from None


def _read_header(file: Path) -> dict[str, str]:
    with _opened(file) as opened:
        header: dict[str, str] = opened.metadata() or {}
    if missing := [key for key in ("recipe", "sha256") if key not in header]:
        raise ValueError(f"{file} was not written by photochrom: its header holds no {missing[0]}")
    return header


def _digest(metadata: str, tensors: Mapping[str, Tensor]) -> str:
    """Returns the sha256 of the metadata and all tensors, in hexadecimal."""
    digest = hashlib.sha256(metadata.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
