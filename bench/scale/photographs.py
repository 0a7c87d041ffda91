"""What a photograph costs to read and to make ready, by how the set is stored."""

from dataclasses import dataclass
from importlib.resources import files
from typing import Literal, get_args

import yaml

from .machines import SourcedValue, figures_of

Stored = Literal["original-recipe", "originals", "packed", "lab"]


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """Pixels in millions, bytes on the disk in KB, and time of a core in ms until it is Lab.

    `what` says which photographs, by which loader; `on_device` whether that can decode on a GPU that has a decoder.
    """

    what: str
    on_device: bool
    size: SourcedValue
    bytes: SourcedValue
    cpu: SourcedValue


_KEYS = {"size(MP)": "size", "bytes(KB)": "bytes", "cpu(ms)": "cpu"}


def load_photograph(stored: Stored) -> Photograph:
    """One of those that come along."""
    values = yaml.safe_load((files("photochrom.bench.scale") / "photographs.yaml").read_text())
    assert values.keys() == set(get_args(Stored))
    entry = values[stored]
    what, on_device = entry.pop("what"), entry.pop("on_device")
    figures = figures_of(entry, _KEYS, set(_KEYS), f"photographs.yaml, {stored}")
    return Photograph(what=what, on_device=on_device, **figures)
