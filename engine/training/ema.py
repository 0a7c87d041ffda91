"""An exponential moving average of the weights, which colorizes more steadily than the last weights do."""

from copy import deepcopy

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ...models import Colorizer


class ModelEma:
    """A copy of a network whose weights are a moving average over the steps; its buffers are the network's last ones.

    This is torch.optim.swa_utils.AveragedModel without its counter, whose copy to the device makes the host wait in
    every step, and with a warm-up.

    Args:
        colorizer: Network from whose weights the average starts.
        decay: Share of the average that is kept in a step. Step t, counted from 0, keeps at most (1 + t) / (10 + t).
    """

    def __init__(self, colorizer: Colorizer, decay: float) -> None:
        self.module = deepcopy(colorizer).requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, colorizer: Colorizer, step: int) -> None:
        """Adds the weights after a step to the average."""
        decay = min(self._decay, (1 + step) / (10 + step))
        average = get_ema_multi_avg_fn(decay)
        average(list(self.module.parameters()), list(colorizer.parameters()), None)
        torch._foreach_copy_(list(self.module.buffers()), list(colorizer.buffers()))
