"""Measures the time of one entry's batches, and how far their L and ab are from scikit-image's."""

import random
import time

import numpy as np
import psutil
import torch

from .task import SQUASH, Batches, Task

_WARM_UP = 4  # batches for each worker: those in the queues before the clock starts do not count
_MAX_PASSES = 12  # until each photograph has come, as some loaders repeat some before others have come


def measure(batches: Batches, task: Task) -> dict[str, float]:
    """Returns the wall-clock and CPU time of a photograph, after a pass over all so that queues are full.

    Also the time from the start of the process to the first batch, and the mean absolute errors of L and ab, if
    photographs are squashed.
    """
    random.seed(0)
    torch.manual_seed(0)
    on_device = ((L.to(task.device), ab.to(task.device), numbers) for L, ab, numbers in batches)
    next(on_device)[0].mean().item()  # waits until it is on the device
    first_batch = time.time() - psutil.Process().create_time()
    error_L, error_ab = errors(on_device, task)
    _synchronize(task)
    began, cpu, num_images = time.perf_counter(), _cpu_seconds(), 0
    while time.perf_counter() - began < task.seconds or not num_images:
        num_images += len(next(on_device)[0])
    _synchronize(task)
    return {
        "wall(s/img)": (time.perf_counter() - began) / num_images,
        "cpu(ms/img)": 1e3 * (_cpu_seconds() - cpu) / num_images,
        "first_batch(s)": first_batch,
    } | ({"error_L": error_L, "error_ab": error_ab} if task.crop == SQUASH else {})


def errors(batches: Batches, task: Task) -> tuple[float, float]:
    """Returns the mean absolute errors of L and ab over all photographs, each once."""
    reference = np.load(task.reference, mmap_mode="r")
    found: dict[int, tuple[float, float]] = {}
    min_batches = _WARM_UP * task.threads
    for num_batches, (L, ab, numbers) in enumerate(batches, start=1):
        for number, *planes in zip(numbers.tolist(), L.cpu().numpy(), ab.cpu().numpy(), strict=True):
            if number not in found:
                difference = np.abs(np.concatenate(planes) - reference[number])
                found[number] = float(difference[0].mean()), float(difference[1:].mean())
        if num_batches >= min_batches and len(found) == len(reference):
            break
        if num_batches * task.batch_size >= _MAX_PASSES * len(reference) + min_batches * task.batch_size:
            raise ValueError(f"only {len(found)} of {len(reference)} photographs came in {_MAX_PASSES} passes")
    error_L, error_ab = np.mean(list(found.values()), axis=0).tolist()
    return error_L, error_ab


def _synchronize(task: Task) -> None:
    if task.device == "cuda":
        torch.cuda.synchronize()


def _cpu_seconds() -> float:
    """Returns the CPU seconds of this process and its children."""
    process = psutil.Process()
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(spent.user + spent.system for spent in times)
