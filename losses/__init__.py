"""Scores a colour prediction; owns the quantisation of ab."""

from .base import ColorLoss, LossOutput
from .l2 import L2, l2_loss
from .quantization import ab_bins, ab_histogram, soft_encode

# The classes that a checkpoint or a command line may name without an import path.
LOSSES: dict[str, type[ColorLoss]] = {"L2": L2}

__all__ = ["L2", "LOSSES", "ColorLoss", "LossOutput", "ab_bins", "ab_histogram", "l2_loss", "soft_encode"]
