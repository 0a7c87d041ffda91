"""What of a network matters to its scaling: its arithmetic, and when which gradients are ready to travel."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from ...models import Colorizer, VGGColorizer

_COUNTED = 32  # side of the photograph whose arithmetic is counted: all else is in proportion to the area
_FIRST, _CAP = 1 << 20, 25 << 20  # bytes after which DistributedDataParallel closes its first bucket, and all others

# Of a step's time, on one H100 in fp32 (bench/results/h100/stages.json, without what makes the batch).
FORWARD, BACKWARD, OPTIMIZER = 0.312, 0.676, 0.012


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Bytes of each of its parameters' gradients, and its share of the network's arithmetic."""

    gradients: tuple[int, ...]
    share: float


@dataclass(frozen=True, kw_only=True)
class NetworkProfile:
    """Operations of one photograph, forward and back, and the layers from first to last."""

    flops: float
    layers: Sequence[Layer]

    @property
    def gradient_bytes(self) -> int:
        """What all gradients take."""
        return sum(sum(layer.gradients) for layer in self.layers)


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Its bytes, and the share of the backward pass from the bucket before it to this one."""

    bytes: int
    share: float


def vgg(width: float, size: int) -> NetworkProfile:
    """The VGG colorizer of that width, for photographs of size x size."""
    return of_model(VGGColorizer(width=width), size)


def of_model(model: Colorizer, size: int) -> NetworkProfile:
    """What a network does for photographs of size x size."""
    with FlopCounterMode(display=False) as counter:
        model.train()(100 * torch.rand(1, 1, _COUNTED, _COUNTED)).output.sum().backward()
    counts = {name: sum(flops.values()) for name, flops in counter.get_flop_counts().items()}
    total, name_of_all = counter.get_total_flops(), type(model).__name__
    layers = [
        Layer(
            gradients=tuple(4 * weight.numel() for weight in weights),
            share=counts.get(f"{name_of_all}.{name}", 0) / total,
        )
        for name, module in model.named_modules()
        if (weights := list(module.parameters(recurse=False)))
    ]
    return NetworkProfile(flops=total * (size / _COUNTED) ** 2, layers=layers)


def buckets(layers: Sequence[Layer], first: int = _FIRST, cap: int = _CAP) -> Iterator[Bucket]:
    """The buckets of gradients in the order in which they become ready, as DistributedDataParallel makes them."""
    held, share, limit = 0, 0.0, first
    for layer in reversed(layers):
        share += layer.share  # its gradients are there when its part of the backward pass is done
        for gradient in reversed(layer.gradients):
            held += gradient
            if held >= limit:
                yield Bucket(bytes=held, share=share)
                held, share, limit = 0, 0.0, cap
    if held or share:
        yield Bucket(bytes=held, share=share)


def segments(found: Sequence[Bucket], step: float) -> tuple[list[float], float]:
    """Of a step of so many seconds: the device's time until each bucket, and that of the optimizer."""
    times = [step * BACKWARD * bucket.share for bucket in found]
    times[0] += step * FORWARD
    return times, step * OPTIMIZER
