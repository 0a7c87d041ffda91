"""Losses of colour predictions, and the 313 bins of ab."""

from .base import ColorLoss, ElementwiseLoss, LossOutput, UnreducedLoss
from .cross_entropy import RebalancedCrossEntropy
from .focal import Focal
from .quantization import ab_bins, ab_histogram, annealed_mean, soft_encode
from .rebalancing import rebalancing_weights
from .regression import L2, SmoothL1, average_cells

# Classes that checkpoints and command lines name without an import path.
LOSSES: dict[str, type[ColorLoss]] = {
    "L2": L2,
    "SmoothL1": SmoothL1,
    "RebalancedCrossEntropy": RebalancedCrossEntropy,
    "Focal": Focal,
}

__all__ = [
    "L2",
    "LOSSES",
    "ColorLoss",
    "ElementwiseLoss",
    "Focal",
    "LossOutput",
    "RebalancedCrossEntropy",
    "SmoothL1",
    "UnreducedLoss",
    "ab_bins",
    "ab_histogram",
    "annealed_mean",
    "average_cells",
    "rebalancing_weights",
    "soft_encode",
]
