"""Convolution, bias and ReLU as torch.compile fuses them best on a GPU.

Inductor writes the gradient behind a ReLU in one kernel, and another kernel reads it again to sum it up to the gradient
of the bias. If both see the map as (chunks, rows, channels), they become one kernel.
"""

# Shapes: B samples, C channels, H W pixels.

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MAX_ROWS, _MIN_ROWS = 1024, 32  # pixels of a chunk; with fewer, the chunks' sums would be large themselves
_CHANNELS = 8  # tensor cores read channels by eight


def forward_layers(layers: Iterable[nn.Module], x: Tensor, *, in_phases: bool = False) -> Tensor:
    """Returns the output (B, C, H, W) of layers, in which a ReLU follows each convolution.

    Of dilated convolutions, `in_phases` computes the plain 3x3 ones for phases of a map.
    """
    fused = is_fused(x)
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            if fused:
                x = _BiasReLU.apply(_convolve(layer, x, in_phases), layer.bias)
            else:
                x = F.conv2d(x, layer.weight, layer.bias, padding=1) if in_phases else layer(x)
        elif not (fused and isinstance(layer, nn.ReLU)):
            x = layer(x)
    return x


def is_fused(x: Tensor) -> bool:
    """Returns True in training that is compiled for a GPU; elsewhere, the layers as they are take less time."""
    return x.is_cuda and torch.is_grad_enabled() and torch.compiler.is_compiling()


def _convolve(conv: nn.Conv2d | nn.ConvTranspose2d, x: Tensor, in_phases: bool) -> Tensor:
    """Returns the convolution without its bias."""
    if isinstance(conv, nn.ConvTranspose2d):
        return F.conv_transpose2d(x, conv.weight, None, conv.stride, conv.padding)  # type: ignore[arg-type]
    if in_phases:
        return F.conv2d(x, conv.weight, padding=1)
    weight = conv.weight
    if x.shape[1] == 1:
        # The strides of one channel do not tell the memory format: Inductor would copy the output's gradient to the
        # other format for the gradient of the weight.
        more_channels = (0, 0, 0, 0, 0, _CHANNELS - 1)
        x, weight = F.pad(x, more_channels), F.pad(weight, more_channels)
    return F.conv2d(x, weight, None, conv.stride, conv.padding, conv.dilation)


class _BiasReLU(torch.autograd.Function):
    """relu(x + bias) of a map x (B, C, H, W) and a bias (C,)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        y = torch.relu(x + bias.to(x.dtype)[:, None, None])
        ctx.save_for_backward(y)
        ctx.bias_dtype = bias.dtype
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        (y,) = ctx.saved_tensors
        _, channels, height, width = y.shape
        if not y.is_contiguous(memory_format=torch.channels_last):
            grad = torch.where(y > 0, grad, 0)
            return grad, grad.sum((0, 2, 3), dtype=ctx.bias_dtype)
        rows = _MAX_ROWS
        while height * width % rows:  # math.gcd is not traced for symbolic sizes
            rows //= 2
        if rows < _MIN_ROWS:
            rows = height * width
        chunks_grad, chunks_y = (x.permute(0, 2, 3, 1).reshape(-1, rows, channels) for x in (grad, y))
        masked = torch.where(chunks_y > 0, chunks_grad, 0)
        # Before the sum, and by as_strided: of a view, Inductor would compute the mask again for the convolution.
        strides = (height * width * channels, 1, width * channels, channels)
        return masked.as_strided(y.shape, strides), masked.sum(1, dtype=ctx.bias_dtype).sum(0)
