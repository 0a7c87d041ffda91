"""Profile of a network for scaling: its arithmetic, and when the backward pass fills which gradient bucket."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from ...models import Colorizer, VGGColorizer

_COUNTED_SIZE = 32  # pixels a side of the photograph whose FLOPs are counted; FLOPs grow with the area
_FIRST, _CAP = 1 << 20, 25 << 20  # bytes of DistributedDataParallel's first bucket, and of others

# Shares of a step's time, on one H100 in fp32 (bench/results/h100/stages.json, without loading).
FORWARD, BACKWARD, OPTIMIZER = 0.312, 0.676, 0.012


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Bytes of the gradient of each parameter, and the layer's share of the network's FLOPs."""

    gradients: tuple[int, ...]
    share: float


@dataclass(frozen=True, kw_only=True)
class NetworkProfile:
    """FLOPs of one photograph, forward and backward, and the layers from first to last."""

    flops: float
    layers: Sequence[Layer]

    @property
    def gradient_bytes(self) -> int:
        """Bytes of all gradients."""
        return sum(sum(layer.gradients) for layer in self.layers)


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Bytes of a gradient bucket, and the share of the backward pass from the previous bucket to this one."""

    bytes: int
    share: float


def vgg(width: float, size: int) -> NetworkProfile:
    """Returns the profile of the VGG colorizer of this width, for photographs of size x size."""
    return profile(VGGColorizer(width=width), size)


def profile(model: Colorizer, size: int) -> NetworkProfile:
    """Returns the profile of a network for photographs of size x size."""
    with FlopCounterMode(display=False) as counter:
        model.train()(100 * torch.rand(1, 1, _COUNTED_SIZE, _COUNTED_SIZE)).output.sum().backward()
    counts = {name: sum(flops.values()) for name, flops in counter.get_flop_counts().items()}
    total, model_name = counter.get_total_flops(), type(model).__name__
    layers = [
        Layer(
            gradients=tuple(4 * weight.numel() for weight in weights),
            share=counts.get(f"{model_name}.{name}", 0) / total,
        )
        for name, module in model.named_modules()
        if (weights := list(module.parameters(recurse=False)))
    ]
    return NetworkProfile(flops=total * (size / _COUNTED_SIZE) ** 2, layers=layers)


def buckets(layers: Sequence[Layer], first: int = _FIRST, cap: int = _CAP) -> Iterator[Bucket]:
    """Yields the gradient buckets of DistributedDataParallel in the order in which they fill."""
    held, share, limit = 0, 0.0, first
    for layer in reversed(layers):
        share += layer.share  # its gradients are ready once its part of the backward pass is done
        for gradient in reversed(layer.gradients):
            held += gradient
            if held >= limit:
                yield Bucket(bytes=held, share=share)
                held, share, limit = 0, 0.0, cap
    if held or share:
        yield Bucket(bytes=held, share=share)


def segments(gradient_buckets: Sequence[Bucket], step: float) -> tuple[list[float], float]:
    """Divides the seconds of a step: the device's time until each bucket is full, and the optimizer's time."""
    times = [step * BACKWARD * bucket.share for bucket in gradient_buckets]
    times[0] += step * FORWARD
    return times, step * OPTIMIZER
