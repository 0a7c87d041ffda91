"""Convolution, bias and ReLU as torch.compile fuses them best on a GPU.

Inductor writes the gradient behind a ReLU in one kernel, and another kernel reads it again to sum it up to the gradient
of the bias. If both see the map as (chunks, rows, channels), they become one kernel. It reads the ReLU's mask as bits.
"""

# Shapes: B samples, C channels, H W pixels.

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
_MAX_ROWS, _MIN_ROWS = 1024, 32  # pixels of a chunk; with fewer, the chunks' sums would be large themselves
_MAX_SUMS = 4  # output channels of a 1x1 convolution as sums
_CHANNELS = 8  # tensor cores read channels by eight


def forward_layers(layers: Iterable[nn.Module], x: Tensor, *, in_phases: bool = False) -> Tensor:
    """Returns the output (B, C, H, W) of layers, in which a ReLU follows each convolution.

    Of dilated convolutions, `in_phases` computes the plain 3x3 ones for phases of a map.
    """
    fused = is_fused(x)
    layers = list(layers)
    for number, layer in enumerate(layers):
        if isinstance(layer, _CONVOLUTIONS):
            if fused:
                # Before BatchNorm, whose backward pass reads the map anyway, bits would be more to read.
                pack = any(isinstance(after, _CONVOLUTIONS) for after in layers[number + 2 : number + 3])
                x = _BiasReLU.apply(_convolve(layer, x, in_phases), layer.bias, pack)
            else:
                x = F.conv2d(x, layer.weight, layer.bias, padding=1) if in_phases else layer(x)
        elif not (fused and isinstance(layer, nn.ReLU)):
            x = layer(x)
    return x


def project(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Returns a 1x1 convolution of x (B, C, H, W) in its weight's precision, for few output channels.

    As a sum it reads a map of half precision as it is; a convolution would need a copy in float32.
    """
    if not is_fused(x) or len(conv.weight) > _MAX_SUMS:
        output: Tensor = conv(x.to(conv.weight.dtype))
        return output
    weight, bias = conv.weight[None], conv.bias
    assert bias is not None
    return (x.to(weight.dtype)[:, None] * weight).sum(2) + bias[:, None, None]


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
    """relu(x + bias) of a map x (B, C, H, W) and a bias (C,).

    With `pack`, it saves the mask in one bit per value; without, the output.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, pack: bool) -> Tensor:
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        ctx.packed = pack and channels_last and x.shape[2] * x.shape[3] % 8 == 0
        ctx.shape, ctx.bias_dtype = x.shape, bias.dtype
        bias = bias.to(x.dtype)
        if not ctx.packed:
            y = torch.relu(x + bias[:, None, None])
            ctx.save_for_backward(y)
            return y
        values = torch.relu(x.permute(0, 2, 3, 1).reshape(-1, 8, len(bias)) + bias)
        y = _as_map(values, x.shape)
        ctx.save_for_backward(torch.where(values > 0, _bits(x), 0).sum(1, dtype=torch.int32).to(torch.uint8))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (saved,) = ctx.saved_tensors
        _, channels, height, width = ctx.shape
        if not (ctx.packed or saved.is_contiguous(memory_format=torch.channels_last)):
            grad = torch.where(saved > 0, grad, 0)
            return grad, grad.sum((0, 2, 3), dtype=ctx.bias_dtype), None
        rows = _MAX_ROWS
        while height * width % rows:  # math.gcd is not traced for symbolic sizes
            rows //= 2
        if rows < _MIN_ROWS:
            rows = height * width
        is_positive = saved[:, None] & _bits(saved) if ctx.packed else saved.permute(0, 2, 3, 1) > 0
        shape = (-1, rows, channels)
        masked = torch.where(is_positive.reshape(shape) > 0, grad.permute(0, 2, 3, 1).reshape(shape), 0)
        return _as_map(masked, ctx.shape), masked.sum(1, dtype=ctx.bias_dtype).sum(0), None


def _bits(x: Tensor) -> Tensor:
    """Returns a bit (8, 1) for each of 8 neighbouring pixels."""
    return 1 << torch.arange(8, device=x.device, dtype=torch.int32)[:, None]


def _as_map(values: Tensor, shape: torch.Size) -> Tensor:
    """Returns channels-last values, contiguous, as a map (B, C, H, W).

    as_strided, before the values are summed up: for a view, Inductor would compute them a second time.
    """
    _, channels, height, width = shape
    return values.as_strided(shape, (height * width * channels, 1, width * channels, channels))
