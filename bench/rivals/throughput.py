"""Images per second of one entry, and what they cost."""

import time
from typing import Any

import psutil
import torch

from .task import Batches, Task

_SETTLING = 4  # batches for each worker before the clock starts: those that queues hold were made while nobody waited


def measure(batches: Batches, task: Task, seconds: float) -> dict[str, Any]:
    """Takes a batch after the other for so long, after a pass over the photographs, with queues as they stay."""
    arrived = ((L.to(task.device), ab.to(task.device)) for L, ab, _ in batches)
    L, _ = next(arrived)
    L.mean().item()  # it is there, on the device
    first = time.monotonic() - task.started
    for _ in range(max(task.num_photographs // task.batch_size, _SETTLING * task.threads)):
        next(arrived)
    _wait(task)
    began, own, busy, num_images = time.perf_counter(), _cpu_seconds(), _busy_seconds(), 0
    while time.perf_counter() - began < seconds or not num_images:
        num_images += len(next(arrived)[0])
    _wait(task)
    taken = time.perf_counter() - began
    own, busy = _cpu_seconds() - own, _busy_seconds() - busy
    return {
        "rate(img/s)": num_images / taken,
        "cpu(ms/img)": 1e3 * own / num_images,
        "others(cores)": max(0.0, busy - own) / taken,
        "first_batch(s)": first,
    }


def _wait(task: Task) -> None:
    if task.device == "cuda":
        torch.cuda.synchronize()


def _cpu_seconds() -> float:
    """What this process and those that it has started have spent, in user and system mode."""
    process = psutil.Process()
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(spent.user + spent.system for spent in times)


def _busy_seconds() -> float:
    """What the whole machine has spent."""
    spent = psutil.cpu_times()
    return float(spent.user + spent.nice + spent.system + spent.irq + spent.softirq + spent.steal)
