"""Maps L to a colour prediction."""

from .colorizer import Colorizer
from .prediction import ColorPrediction
from .vgg import VGGColorizer

# The classes that a checkpoint or a command line may name without an import path.
MODELS: dict[str, type[Colorizer]] = {"VGGColorizer": VGGColorizer}

__all__ = ["MODELS", "ColorPrediction", "Colorizer", "VGGColorizer"]
