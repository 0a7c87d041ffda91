"""The state of a Trainer in a file: tensors as safetensors, plain values as JSON in the header."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...pipelines.files import atomic_write, utf8_path
from ...pipelines.structured import parse_json, validated

_VALUES = "values"  # the key of the plain values in the header


def save_state(state: Mapping[str, Any], path: Path) -> None:
    """Writes tensors and plain values by name. Raises SafetensorError, and ValueError for a value of another type."""
    tensors = {name: value.contiguous() for name, value in state.items() if isinstance(value, Tensor)}
    values = {}
    for name, value in state.items():
        if name not in tensors:
            try:
                values[name] = json.loads(json.dumps(value))
            except TypeError:
                raise ValueError(
                    f"{name} is a {type(value).__name__}, and a checkpoint holds tensors, numbers and text: choose "
                    "another optimizer"
                ) from None
    with atomic_write(path) as file:
        save_file(tensors, file, metadata={_VALUES: json.dumps(values)})


def load_state(path: Path) -> dict[str, Any]:
    """Returns tensors on the CPU and plain values by name. Raises ValueError when the file holds anything else."""
    try:
        with utf8_path(path) as opened, safe_open(opened, framework="pt") as file:
            values = validated(dict[str, Any], parse_json((file.metadata() or {})[_VALUES], "its header"), "its header")
            return {**values, **{name: file.get_tensor(name) for name in file.keys()}}  # noqa: SIM118  not a mapping
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is not the state of a training run: {str(error).splitlines()[0]}") from None
