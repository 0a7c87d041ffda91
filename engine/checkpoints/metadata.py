"""The metadata of a model."""

from dataclasses import dataclass, field
from typing import Any

from ..configuration.config import ClassSpec


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
    """

    model: ClassSpec
    loss: ClassSpec
    size: int
    step: int
    data: str
    config: dict[str, Any]
    versions: dict[str, str]
    provenance: dict[str, Any] = field(default_factory=dict)
