"""Where the time of a training step goes, stage by stage: python -m photochrom.bench.stages SHARDS

The stages are measured in turn, round after round, so that a machine's moods fall on all of them alike. Each figure is
the median over the rounds, with the smallest and the largest beside it.
"""

import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ..engine.config import Device, plain
from ..engine.doctor import versions
from ..engine.launch import resolve_device
from ..engine.parser import parse_options
from ..engine.train import endless
from ..losses import L2
from ..models import VGGColorizer
from ..pipelines import DaliLoader, lab_to_rgb, rgb_to_lab
from ..pipelines.augment import Crop
from .timing import Clock, machine

_MIN_ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class StagesConfig:
    """Measures the stages of a training step: reading and decoding, Lab, forward, backward, optimizer.

    Args:
        data: Shard set to read.
        size: Side of the crops in pixels.
        crop: How they are cut, random_resized, random, center or squash.
        batch_size: Photographs in a step.
        width: Of the network.
        threads: That decode; by default one per core.
        device: auto, cuda or cpu.
        seconds: How long to measure, after one round to warm up.
        out: File for the figures as JSON.
    """

    data: Path
    size: int = 256
    crop: Crop = "random_resized"
    batch_size: int = 32
    width: float = 1.0
    threads: int | None = None
    device: Device = "auto"
    seconds: float = 30.0
    out: Path | None = None


def main(argv: list[str]) -> int:
    config = parse_options(StagesConfig, argv, prog="python -m photochrom.bench.stages", positional=("data",))
    try:
        figures = measure(config)
    except ValueError as error:
        Console(stderr=True).print(str(error), markup=False)
        return 1
    if config.out:
        config.out.write_text(json.dumps(figures, indent=1) + "\n")
    table = Table("stage", "ms per image", "smallest", "largest", "share", box=None, header_style="bold")
    for row in figures["rows"]:
        cells = (f"{row[name]:.3f}" for name in ("median(ms)", "min(ms)", "max(ms)"))
        table.add_row(row["stage"], *cells, f"{row['share(%)']:.0f} %")
    Console().print(table)
    print(figures["verdict"])
    return 0


def measure(config: StagesConfig) -> dict[str, Any]:
    """Milliseconds per image of every stage, and what they were measured on."""
    device = resolve_device(config.device)
    times: dict[str, list[float]] = {}
    deadline = None
    for number, stages in enumerate(_rounds(config, device)):
        if deadline is None:
            deadline = time.perf_counter() + config.seconds  # the first round was the warm-up
            continue
        for stage, seconds in stages.items():
            times.setdefault(stage, []).append(1e3 * seconds / config.batch_size)
        if number >= _MIN_ROUNDS and time.perf_counter() > deadline:
            break
    medians = {stage: statistics.median(values) for stage, values in times.items()}
    total = sum(medians.values())
    rows = [
        {
            "stage": stage,
            "median(ms)": medians[stage],
            "min(ms)": min(values),
            "max(ms)": max(values),
            "share(%)": 100 * medians[stage] / total,
            "num_rounds": len(values),
        }
        for stage, values in times.items()
    ]
    slowest = max(medians, key=lambda stage: medians[stage])
    return {
        "machine": machine(device),
        "versions": versions(),
        "settings": plain(config),
        "rows": rows,
        "verdict": f"{slowest}: {100 * medians[slowest] / total:.0f} % of {total:.1f} ms per image",
    }


def _rounds(config: StagesConfig, device: torch.device) -> Iterator[dict[str, float]]:
    """Endless rounds: the seconds that each stage took on one batch."""
    torch.manual_seed(0)
    loader = DaliLoader(
        config.data,
        batch_size=config.batch_size,
        size=config.size,
        train=True,
        crop=config.crop,
        device=device,
        threads=config.threads,
        prefetch=1,  # nothing is prepared while the other stages run, which would hide the loader's time in theirs
    )
    model, loss = VGGColorizer(width=config.width).to(device).train(), L2()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=device.type == "cuda")
    batches = endless(loader)
    while True:
        clock = Clock(device)
        batch = next(batches)
        loading = clock.lap()
        pixels = (lab_to_rgb(batch.L, batch.ab) * 255).round().byte().permute(0, 2, 3, 1).contiguous()
        clock.lap()
        rgb_to_lab(pixels)
        lab = clock.lap()
        total = loss(model(batch.L), batch).total
        forward = clock.lap()
        total.backward()
        backward = clock.lap()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield {
            "read, decode, crop, resize": loading - lab,
            "Lab": lab,
            "forward and loss": forward,
            "backward": backward,
            "optimizer": clock.lap(),
        }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
