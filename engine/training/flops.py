"""Floating point operations of training, and the peaks of devices."""

import re
from copy import deepcopy

import torch

from ...models import Colorizer

# Dense peaks in 10^12 operations per second, from the makers' data sheets: fp16 or bf16 with sums in fp32 on tensor
# cores; and fp32, which uses TF32 where a device has it. The first name that matches counts.
_PEAKS: list[tuple[str, float, float]] = [
    (r"\bH[12]00 PCIe", 756, 378),
    (r"\bH[12]00 NVL", 835, 417),
    (r"\bH[12]00|\bGH200", 989, 494),
    (r"\bA100|\bA800", 312, 156),
    (r"\bL40S", 362, 183),
    (r"\bL4\b", 121, 60),
    (r"\bA10\b", 125, 62.5),
    (r"\bA10G\b", 70, 35),
    (r"\bV100.*PCI", 112, 14),
    (r"\bV100", 125, 15.7),
    (r"\bT4\b", 65, 8.1),
]


def flops_per_image(colorizer: Colorizer, size: int, device: torch.device) -> int:
    """Counts the operations of one photograph of size x size, forward and backward, on the device.

    A multiplication and an addition count as two. 248.7e9 for the VGG colorizer of width 1 at 256.
    """
    from torch.utils.flop_counter import FlopCounterMode  # imports Triton

    model = deepcopy(colorizer).to(device).train()
    with FlopCounterMode(display=False) as counter:
        model(100 * torch.rand(2, 1, size, size, device=device)).output.sum().backward()
    return int(counter.get_total_flops()) // 2


def published_peak(device: torch.device, precision: str) -> float | None:
    """Returns the operations per second that the device's maker publishes, or None where that is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    for pattern, half, single in _PEAKS:
        if re.search(pattern, name):
            return 1e12 * (single if precision == "no" else half)
    return None
