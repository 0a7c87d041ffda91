"""An average of the weights over the steps, which colorizes more steadily than the last ones do."""

from copy import deepcopy

import torch

from ...models import Colorizer


class Average:
    """Exponential moving average of a network's weights; the statistics of BatchNorm are its last ones.

    Args:
        colorizer: The network, from whose weights the average starts.
        decay: Share of the average that stays from step to step; early in a run less of it does, (1 + t) / (10 + t).
    """

    def __init__(self, colorizer: Colorizer, decay: float) -> None:
        self.colorizer = deepcopy(colorizer).requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, colorizer: Colorizer, step: int) -> None:
        """Takes in the weights after a step, of which the first is 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.colorizer.parameters()), list(colorizer.parameters()), 1 - decay)
        torch._foreach_copy_(list(self.colorizer.buffers()), list(colorizer.buffers()))
