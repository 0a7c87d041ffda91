"""The base class of models."""

# Shapes: B samples, H W pixels.

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..losses.base import Head
from .prediction import ColorPrediction


class Colorizer(nn.Module, ABC):
    """A network from L to a ColorPrediction; subclass it to add your own.

    The constructor takes plain values only (numbers, strings, lists), since checkpoints store them as JSON. `head` is
    the kind of output, which losses check: "ab", colours, or "bins", logits of the 313 bins. With
    `activation_checkpointing`, training recomputes hidden activations in the backward pass: less memory, more time.
    """

    head: Head = "ab"
    execution: tuple[str, ...] = ()  # constructor arguments that change how it computes, not the result
    activation_checkpointing: bool = False

    if TYPE_CHECKING:  # nn.Module's returns Any

        def __call__(self, L: Tensor) -> ColorPrediction: ...

    @abstractmethod
    def forward(self, L: Tensor) -> ColorPrediction:
        """Returns the colours of L (B, 1, H, W) in [0, 100], of any size."""

    def autotune(self, L: Tensor, *, compiled: bool = False) -> None:
        """Chooses, before training, the fastest way to compute the same result for batches like L (B, 1, H, W).

        It is called as training will call the network: within autocast, and with `compiled` by torch.compile.
        """
