"""Measures the images per second and the CPU time of one entry."""

import time
from typing import Any

import psutil
import torch

from .task import Batches, Task

_WARM_UP = 4  # batches for each worker: those in the queues before the clock starts do not count


def measure(batches: Batches, task: Task, seconds: float) -> dict[str, Any]:
    """Takes batches for `seconds`, after a pass over the photographs, so that queues are full."""
    on_device = ((L.to(task.device), ab.to(task.device)) for L, ab, _ in batches)
    L, _ = next(on_device)
    L.mean().item()  # waits until it is on the device
    first_batch = time.monotonic() - task.started
    for _ in range(max(task.num_photographs // task.batch_size, _WARM_UP * task.threads)):
        next(on_device)
    _synchronize(task)
    began, cpu, num_images = time.perf_counter(), _cpu_seconds(), 0
    while time.perf_counter() - began < seconds or not num_images:
        num_images += len(next(on_device)[0])
    _synchronize(task)
    elapsed = time.perf_counter() - began
    return {
        "rate(img/s)": num_images / elapsed,
        "cpu(ms/img)": 1e3 * (_cpu_seconds() - cpu) / num_images,
        "first_batch(s)": first_batch,
    }


def _synchronize(task: Task) -> None:
    if task.device == "cuda":
        torch.cuda.synchronize()


def _cpu_seconds() -> float:
    """Returns the CPU seconds of this process and its children."""
    process = psutil.Process()
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(spent.user + spent.system for spent in times)
