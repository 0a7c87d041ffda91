"""Costs of reading and decoding a photograph, by storage format."""

from importlib.resources import files
from typing import Literal

import yaml
from pydantic import Field

from .machines import FileModel, SourcedValue, validated

Stored = Literal["original-recipe", "originals", "packed", "lab"]


class Photograph(FileModel):
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
    size: SourcedValue = Field(alias="size(MP)")
    bytes: SourcedValue = Field(alias="bytes(KB)")
    cpu: SourcedValue = Field(alias="cpu(ms)")


def load_photograph(stored: Stored) -> Photograph:
    """Returns the costs of a storage format."""
    formats = yaml.safe_load((files("photochrom.bench.scale") / "photographs.yaml").read_text())
    return validated(Photograph, formats[stored], "photographs.yaml")
