"""Networks from L to a colour prediction."""

from .colorizer import Colorizer
from .prediction import ColorPrediction
from .vgg import VGGColorizer

# Classes that checkpoints and command lines name without an import path.
MODELS: dict[str, type[Colorizer]] = {"VGGColorizer": VGGColorizer}

__all__ = ["MODELS", "ColorPrediction", "Colorizer", "VGGColorizer"]
