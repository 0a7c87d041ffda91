"""Convolutions of dilation 2 computed as plain ones, on every other row and column.

Few GPU libraries have a fast kernel for dilated convolutions; all have one for plain convolutions. A feature map with
even sides splits into four phases, each with every other pixel. On a phase, a 3x3 convolution of dilation 2 and padding
2 is one of dilation 1 and padding 1. Batch statistics see the same values. One split serves any number of layers.
"""

# Shapes: B samples, C channels, H W pixels.

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn

from .bias_relu import forward_layers

_REPEATS = 5


def space_to_batch(x: Tensor) -> Tensor:
    """Returns the four phases (4 B, C, H / 2, W / 2) of x (B, C, H, W), in its memory format; H and W are even.

    Inductor fuses a permutation with the layers around it, where a concatenation would be a copy, and so its gradient.
    """
    split = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # B C H/2 2 W/2 2
    if x.is_contiguous(memory_format=torch.channels_last):
        return split.permute(3, 5, 0, 2, 4, 1).flatten(0, 2).movedim(3, 1)
    return split.permute(3, 5, 0, 1, 2, 4).flatten(0, 2)


def batch_to_space(phases: Tensor) -> Tensor:
    """Returns x (B, C, H, W), in their memory format, of its four phases (4 B, C, H / 2, W / 2)."""
    split = phases.unflatten(0, (2, 2, -1))  # 2 2 B C H/2 W/2
    if phases.is_contiguous(memory_format=torch.channels_last):
        return split.permute(2, 4, 0, 5, 1, 3).flatten(3, 4).flatten(1, 2).movedim(3, 1)
    return split.permute(2, 3, 4, 0, 5, 1).flatten(4, 5).flatten(2, 3)


def forward_in_batch(blocks: Sequence[nn.Sequential], x: Tensor) -> Tensor:
    """Returns the blocks' output for x (B, C, H, W), H and W even; their convolutions are 3x3 of dilation 2."""
    layers = (layer for block in blocks for layer in block)
    return batch_to_space(forward_layers(layers, space_to_batch(x), in_phases=True))


def is_faster(blocks: Sequence[nn.Sequential], x: Tensor, *, compiled: bool = False) -> bool:
    """Times both ways forward and backward on x; returns True if `forward_in_batch` takes less time."""
    from torch.utils.benchmark import Timer  # slow to import

    blocks = deepcopy(blocks)  # keeps their statistics and gradients

    def seconds(function: Callable[[Tensor], Tensor]) -> float:
        step = "function(x.detach().requires_grad_()).sum().backward()"
        function = torch.compile(function) if compiled else function
        return Timer(step, globals={"function": function, "x": x}).timeit(_REPEATS).mean  # after a first call

    return seconds(partial(forward_in_batch, blocks)) < seconds(nn.Sequential(*blocks))
