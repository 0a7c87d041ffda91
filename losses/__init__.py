"""Scores a colour prediction; owns the quantisation of ab."""

from .base import ColorLoss, ElementLoss, Elements, LossOutput
from .cross_entropy import RebalancedCrossEntropy
from .focal import Focal
from .l2 import L2
from .quantization import ab_bins, ab_histogram, annealed_mean, soft_decode, soft_encode
from .rebalancing import rebalancing_weights
from .smooth_l1 import SmoothL1

# The classes that a checkpoint or a command line may name without an import path.
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
    "ElementLoss",
    "Elements",
    "Focal",
    "LossOutput",
    "RebalancedCrossEntropy",
    "SmoothL1",
    "ab_bins",
    "ab_histogram",
    "annealed_mean",
    "rebalancing_weights",
    "soft_decode",
    "soft_encode",
]
