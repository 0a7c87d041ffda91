"""Costs of reading and decoding a photograph, by storage format."""

from dataclasses import dataclass
from importlib.resources import files
from typing import Literal, get_args

import yaml

from .machines import SourcedValue, sourced_values

Stored = Literal["original-recipe", "originals", "packed", "lab"]


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """Costs of a photograph.

    Args:
        what: Photographs and loader that were measured.
        on_device: A GPU with a decoder can decode it.
        size: Pixels in millions.
        bytes: Stored bytes in KB.
        cpu: Time of one core to decode it to Lab, in ms.
    """

    what: str
    on_device: bool
    size: SourcedValue
    bytes: SourcedValue
    cpu: SourcedValue


_KEYS = {"size(MP)": "size", "bytes(KB)": "bytes", "cpu(ms)": "cpu"}


def load_photograph(stored: Stored) -> Photograph:
    """Returns the costs of a storage format."""
    formats = yaml.safe_load((files("photochrom.bench.scale") / "photographs.yaml").read_text())
    assert formats.keys() == set(get_args(Stored))
    entry = formats[stored]
    what, on_device = entry.pop("what"), entry.pop("on_device")
    values = sourced_values(entry, _KEYS, set(_KEYS), f"photographs.yaml, {stored}")
    return Photograph(what=what, on_device=on_device, **values)
