"""Measures the stages of TorchLoader, from stored bytes to Lab, each alone in one thread. DALI's are not separated."""

import statistics
from itertools import count
from typing import Any

import numpy as np
import torch

from ...engine.configuration.config import RunConfig
from ...pipelines import TorchLoader
from ...pipelines.imaging.color import lab_converter
from ...pipelines.joined_shards import open_shards
from ...pipelines.loading.base import BatchPlan
from ...pipelines.loading.batch_buffer import Pixels, crop, resize
from ..common.timing import Clock, collect

READ, DECODE, CUT, TRANSFER, LAB = "read", "decode", "crop and resize", "transfer", "Lab"

_MAX_SAMPLES = 32  # in a round


def stage_costs(config: RunConfig, device: torch.device, seconds: float) -> list[dict[str, Any]]:
    """Returns a row for each stage: microseconds per photograph of one core or of the device."""
    data = config.data
    loader = TorchLoader(
        open_shards(data.train, data.weights),
        batch_size=min(_MAX_SAMPLES, config.train.batch_size),
        size=data.size,
        train=True,
        crop=data.crop,
        scale=data.scale,
        flip=data.flip,
        threads=1,
    )
    try:
        times = collect((_round(loader, loader.plan(number), device) for number in count()), seconds)
    finally:
        loader.close()
    return [
        {
            "stage": stage,
            "median(us/img)": 1e6 * statistics.median(values) / loader.batch_size,
            "min(us/img)": 1e6 * min(values) / loader.batch_size,
            "max(us/img)": 1e6 * max(values) / loader.batch_size,
            "num_rounds": len(values),
        }
        for stage, values in times.items()
    ]


def _round(loader: TorchLoader, plan: BatchPlan, device: torch.device) -> dict[str, float]:
    """Returns the seconds of each stage for a batch."""
    planar = loader.data.store == "lab"
    seconds = dict.fromkeys((READ, DECODE, CUT), 0.0)
    clock, squares = Clock(torch.device("cpu")), []
    stored = [np.array(picture) for picture in loader.reader.read(plan.index)]  # copied: a memory map reads lazily
    seconds[READ] = clock.lap()
    for index, encoded, window in zip(plan.index.tolist(), stored, plan.window.tolist(), strict=True):
        clock.lap()
        picture = loader.image(index, encoded)
        seconds[DECODE] += clock.lap()
        square = crop(picture, window, planar)
        if window[2:] != [loader.size, loader.size]:
            square = resize(square, loader.size, is_planar=planar)
        seconds[CUT] += clock.lap()
        squares.append(square.copy())  # the next picture is decoded into the same memory
    to_lab = _on_cpu(loader, plan, squares) if device.type == "cpu" else _on_device(loader, squares, device)
    return seconds | to_lab


def _on_cpu(loader: TorchLoader, plan: BatchPlan, squares: list[Pixels]) -> dict[str, float]:
    buffer, whole = loader.new_buffer(len(squares)), (0, 0, loader.size, loader.size)
    clock = Clock(torch.device("cpu"))
    for i, square in enumerate(squares):
        buffer.write(i, square, whole, bool(plan.flip[i]))
    return {LAB: clock.lap()}


def _on_device(loader: TorchLoader, squares: list[Pixels], device: torch.device) -> dict[str, float]:
    pinned = torch.from_numpy(np.stack(squares)).pin_memory()
    clock = Clock(device)
    on_device = pinned.to(device, non_blocking=True)
    transfer = clock.lap()
    lab_converter(loader.data.store)(on_device)
    return {TRANSFER: transfer, LAB: clock.lap()}
