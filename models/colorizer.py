"""What every colorizer is."""

# Shapes: B samples, H W pixels.

from abc import ABC, abstractmethod

from torch import Tensor, nn

from .prediction import ColorPrediction, Head


class Colorizer(nn.Module, ABC):
    """A map from L to a ColorPrediction; subclass it to plug in your own.

    The constructor takes plain values only (numbers, strings, lists), since checkpoints store them as JSON. `head` says
    what the network puts out, "ab", colours, or "bins", logits of the 313 bins, for the losses to check.
    """

    head: Head = "ab"
    execution: tuple[str, ...] = ()  # constructor arguments that decide how it computes, not what
    activation_checkpointing: bool = (
        False  # hidden features when gradients are taken, instead of keeping them: less memory, more time
    )

    @abstractmethod
    def forward(self, L: Tensor) -> ColorPrediction:
        """The colours of L (B, 1, H, W) in [0, 100], of any size."""

    def autotune(self, L: Tensor) -> None:
        """Chooses, before training, the fastest way to the same result for batches like L (B, 1, H, W)."""
