"""Weights that a new run begins with: those of a trained model that fit."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...models import Colorizer
from ...pipelines.files import sha256_of
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.model_file import check_shapes, model_file, read_metadata, read_tensors
from ..configuration.config import ModelSpec
from .checks import network_settings


@dataclass(frozen=True, kw_only=True)
class InitialWeights:
    """A trained model to begin from: its name, as it was given, and its file."""

    name: str
    file: Path
    sha256: str


def find_initial_weights(name: str) -> InitialWeights:
    """Returns the model of a run, a checkpoint, a model file or a shipped name; raises ValueError if there is none."""
    file = model_file(Path(name))
    check_shapes(file, read_metadata(file).model)
    return InitialWeights(name=name, file=file, sha256=sha256_of(file))


def init_provenance(start: Checkpoint | InitialWeights | None) -> dict[str, Any]:
    """Returns the entry `init` of a run's provenance, on the weights that it began from; a resumed run keeps it."""
    if isinstance(start, Checkpoint):
        init = read_metadata(start.model).provenance.get("init")
        return {"init": init} if init else {}
    if start is None:
        return {}
    metadata = read_metadata(start.file)
    init = {"name": start.name, "sha256": start.sha256, "step": metadata.step, "training": metadata.training}
    parent = metadata.provenance.get("init")
    return {"init": init | ({"init": parent} if parent else {})}


def load_initial_weights(colorizer: Colorizer, model: ModelSpec, source: InitialWeights) -> Iterator[str]:
    """Loads the tensors that `colorizer` has, too; yields what a person should know about the others.

    `model` describes `colorizer`. Raises ValueError when the file's model has another class or other shapes.
    """
    metadata = read_metadata(source.file)
    if metadata.model.class_path != model.class_path:
        raise ValueError(
            f"{source.name} is a {metadata.model.class_path}, and this run trains a {model.class_path}: omit --model "
            "or --model.init"
        )
    if sha256_of(source.file) != source.sha256:
        raise ValueError(f"{source.file} has changed since this command began: start it again")
    tensors, expected = read_tensors(source.file), colorizer.state_dict()
    theirs, ours = network_settings(metadata.model), network_settings(model)
    changed = {name for name in ours if theirs.get(name) != ours[name]}
    settings = ", ".join(f"model.{name} {theirs.get(name)} -> {ours[name]}" for name in sorted(changed))
    if any(tensor.shape != expected[name].shape for name, tensor in tensors.items() if name in expected):
        raise ValueError(
            f"{source.name} has layers of other shapes than this run's model ({settings or 'the class has changed'}): "
            "omit these options to take its settings, or omit --model.init"
        )
    # The buffers of a changed setting, such as the constants of a normalization, belong to its new value.
    fitting = {
        name: tensor for name, tensor in tensors.items() if name in expected and name.partition(".")[0] not in changed
    }
    if not fitting:
        raise ValueError(f"no tensor of {source.name} fits this run's model: name another model, or omit --model.init")
    colorizer.load_state_dict(fitting, strict=False)
    yield (
        f"beginning from {source.name} (step {metadata.step}, sha256 {source.sha256[:12]}): {len(fitting)} of "
        f"{len(expected)} tensors"
    )
    notes = {
        "settings": settings,
        "new tensors": ", ".join(name for name in expected if name not in fitting),
        "not loaded": ", ".join(name for name in tensors if name not in fitting),
    }
    if any(notes.values()):
        yield f"  {'; '.join(f'{title}: {names}' for title, names in notes.items() if names)}"
