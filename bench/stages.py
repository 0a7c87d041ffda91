"""Where the time of a training step goes, stage by stage: python -m photochrom.bench.stages SHARDS"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..engine.config import Device
from ..engine.launch import resolve_device
from ..engine.train import endless
from ..losses import L2
from ..models import VGGColorizer
from ..pipelines import DaliLoader
from ..pipelines.augment import Crop
from .publishing import figures, run, shares
from .timing import Clock, collect, spread


@dataclass(frozen=True, kw_only=True)
class StagesConfig:
    """Measures the stages of a training step: photographs to Lab, forward, backward, optimizer.

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
    show = shares("stage", "ms per image", "share")
    return run(argv, StagesConfig, measure, prog="python -m photochrom.bench.stages", show=show, positional=("data",))


def measure(config: StagesConfig) -> dict[str, Any]:
    """Milliseconds per image of every stage, and what they were measured on."""
    device = resolve_device(config.device)
    times = collect(_rounds(config, device), config.seconds)
    per_image = {stage: [seconds / config.batch_size for seconds in values] for stage, values in times.items()}
    rows = spread(per_image, label="stage", whole=lambda medians: sum(medians.values()))
    slowest = max(rows, key=lambda row: row["median(ms)"])
    total = sum(row["median(ms)"] for row in rows)
    verdict = f"{slowest['stage']}: {slowest['share(%)']:.0f} % of {total:.1f} ms per image"
    return figures(config, device, rows, verdict)


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
        total = loss(model(batch.L), batch).total
        forward = clock.lap()
        total.backward()
        backward = clock.lap()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield {
            "photographs to Lab": loading,
            "forward and loss": forward,
            "backward": backward,
            "optimizer": clock.lap(),
        }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
