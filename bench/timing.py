"""How times are taken, and on what."""

import os
import platform
import time
from typing import Any

import torch


class Clock:
    """Laps in seconds; each ends when the device has done what it was told."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.lap()

    def lap(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        seconds, self._last = now - getattr(self, "_last", now), now
        return seconds


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu": platform.processor() or platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)),
        "torch_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }
