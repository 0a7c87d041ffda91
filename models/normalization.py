"""Affine maps between Lab units and a network's input and output; saved with the model."""

# Shapes: B samples, H W pixels.

from typing import Literal

import torch
from torch import Tensor, nn

from ..losses.base import check_choice

Preset = Literal["zhang", "seed"]

# (L centre, L scale, ab scale, ab offset): in (L - centre) / scale, out ab * scale + offset.
_PRESETS: dict[str, tuple[float, float, float, float]] = {
    "zhang": (50.0, 100.0, 110.0, 0.0),  # eccv16.py of richzhang/colorization
    "seed": (0.0, 100.0, 256.0, -128.0),  # the original project: L / 100 and (ab + 128) / 256
}


class Normalization(nn.Module):
    """Affine maps of L and ab, stored as buffers so that a checkpoint cannot lose them."""

    constants: Tensor

    def __init__(self, preset: Preset = "zhang") -> None:
        super().__init__()
        check_choice("model.normalization", preset, Preset)
        self.register_buffer("constants", torch.tensor(_PRESETS[preset]))

    def encode(self, L: Tensor) -> Tensor:
        """Returns the network's input (B, 1, H, W) of L in [0, 100]."""
        centre, scale, _, _ = self.constants
        return (L - centre) / scale

    def decode(self, output: Tensor) -> Tensor:
        """Returns ab (B, 2, H, W) in Lab units of the network's output."""
        _, _, scale, offset = self.constants
        return output * scale + offset

    @property
    def grey(self) -> float:
        """The output that means grey, ab = 0."""
        _, _, scale, offset = self.constants.tolist()
        return -offset / scale
