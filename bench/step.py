"""How fast the training step is, by precision, layout, dilation and compilation: python -m photochrom.bench.step

All variants learn from the same batch, in turn. The first is what a training script does that sets nothing.
"""

import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from accelerate.state import AcceleratorState
from rich.table import Column, Table

from ..engine.config import Compile, DataConfig, Device, Layout, Precision, RunConfig, Spec, TrainConfig
from ..engine.flops import flops_per_image, published_peak
from ..engine.launch import make_trainer, resolve_device
from ..engine.learner import Learner
from ..losses import L2
from ..models import VGGColorizer
from ..models.vgg import Dilation
from ..pipelines import LabBatch
from ..pipelines.synthetic import colourful
from .publishing import Found, figures, run
from .timing import collect, turns

_ON_CPU = ["fp32", "fp32 channels_last", "fp32 channels_last space_to_batch", "fp32 channels_last recompute"]
_ON_GPU = [
    "fp32",
    "fp32 channels_last",
    "bf16",
    "bf16 channels_last",
    "bf16 channels_last space_to_batch",
    "bf16 channels_last default",
    "bf16 channels_last default space_to_batch",
    "bf16 channels_last reduce-overhead space_to_batch",
    "bf16 channels_last recompute",
    "fp16 channels_last",
    "fp16 channels_last space_to_batch",
]


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """Measures training steps on one batch that is there already: forward, back, and Adam.

    Args:
        variants: Words that each name a precision, a layout, a dilation, a mode of compilation, or recompute.
        batch_sizes: Photographs in a step; all variants are measured with each.
        size: Side of the photographs in pixels.
        width: Of the network.
        device: auto, cuda or cpu.
        peak_tflops: What the device can do, for MFU; by default what its maker publishes.
        seconds: How long to measure each batch size, after one round to warm up; at least 3 rounds.
        out: File for the figures as JSON.
    """

    variants: list[str] = field(default_factory=list)
    batch_sizes: list[int] = field(default_factory=lambda: [64])
    size: int = 256
    width: float = 1.0
    device: Device = "auto"
    peak_tflops: float | None = None
    seconds: float = 60.0
    out: Path | None = None


def main(argv: list[str]) -> int:
    return run(argv, StepConfig, measure, prog="python -m photochrom.bench.step", show=_show)


def measure(config: StepConfig) -> dict[str, Any]:
    """Images per second of every variant and batch size, and what they were measured on."""
    device = resolve_device(config.device)
    variants = config.variants or (_ON_GPU if device.type == "cuda" else _ON_CPU)
    flops = flops_per_image(VGGColorizer(width=config.width), config.size, device)
    rows = [row for size in config.batch_sizes for row in _measured(config, variants, size, flops, device)]
    best = max(rows, key=lambda row: row["median(img/s)"])
    verdict = (
        f"fastest is {best['variant']} with batches of {best['batch_size']}: {best['ratio']:.2f} times {variants[0]}; "
        f"a photograph takes {flops / 1e9:.1f} GFLOP"
    )
    return figures(config, device, rows, verdict)


def _measured(
    config: StepConfig, variants: list[str], batch_size: int, flops: int, device: torch.device
) -> Iterator[dict[str, Any]]:
    L, ab = colourful(batch_size, config.size, seed=0)
    batch = LabBatch(L=L.to(device), ab=ab.to(device), index=torch.arange(batch_size))
    memory: dict[str, float] = {}
    works = {name: _work(config, name, batch, device, memory) for name in variants}
    times = collect(turns(works, device), config.seconds)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    for name, seconds in times.items():
        half = "no" if "fp32" in name.split() else "half"
        peak = 1e12 * (config.peak_tflops or 0) or published_peak(device, half)
        yield {
            "variant": name,
            "batch_size": batch_size,
            "median(img/s)": batch_size / medians[name],
            "min(img/s)": batch_size / max(seconds),
            "max(img/s)": batch_size / min(seconds),
            "ratio": medians[variants[0]] / medians[name],
            "mfu(%)": 100 * flops * batch_size / medians[name] / peak if peak else None,
            "memory/peak(GiB)": memory.get(name),
            "num_rounds": len(seconds),
        }


def _work(
    config: StepConfig, name: str, batch: LabBatch, device: torch.device, memory: dict[str, float]
) -> Callable[[], None]:
    """A step of a variant; the first notes how much memory it takes besides the weights."""
    run = _config(config, name, batch)
    AcceleratorState._reset_state()  # it allows one precision in a process
    accelerator = make_trainer(run.train)
    torch.manual_seed(0)
    colorizer = VGGColorizer(**run.model.init_args)
    learner = Learner(colorizer, L2(), run, accelerator)

    def work() -> None:
        before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
        if device.type == "cuda" and name not in memory:
            torch.cuda.reset_peak_memory_stats()
        learner.learn(batch, step=0, rate=1e-5)
        if device.type == "cuda" and name not in memory:
            memory[name] = (torch.cuda.max_memory_allocated() - before) / 2**30

    return work


def _config(config: StepConfig, name: str, batch: LabBatch) -> RunConfig:
    """The run that a variant's words describe. Raises ValueError for a word that is none."""
    chosen: dict[str, Any] = {"precision": "fp32", "layout": "contiguous", "dilation": "native", "compile": "off"}
    kinds = {"precision": Precision, "layout": Layout, "dilation": Dilation, "compile": Compile}
    for word in name.split():
        if word == "recompute":
            chosen["recompute"] = True
            continue
        kind = next((kind for kind, words in kinds.items() if word in get_args(words) and word != "auto"), None)
        if kind is None:
            known = [word for words in kinds.values() for word in get_args(words) if word != "auto"]
            raise ValueError(f"--variants has {word!r}, which is unknown: known are {', '.join(known)}, recompute")
        chosen[kind] = word
    dilation = chosen.pop("dilation")
    return RunConfig(
        out=Path("unused"),
        data=DataConfig(train="unused", size=config.size),
        model=Spec(class_path="VGGColorizer", init_args={"width": config.width, "dilation": dilation}),
        train=TrainConfig(batch_size=len(batch), device=config.device, **chosen),
    )


def _show(found: Found) -> Table:
    headings = ("batch", "images/s", "slowest", "fastest", "ratio", "MFU", "GiB")
    table = Table(Column("variant", no_wrap=True), *headings, box=None, header_style="bold")
    for row in found["rows"]:
        rates = (f"{row[f'{which}(img/s)']:.1f}" for which in ("median", "min", "max"))
        mfu, memory = (f"{value:.1f}" if value else "-" for value in (row["mfu(%)"], row["memory/peak(GiB)"]))
        table.add_row(row["variant"], str(row["batch_size"]), *rates, f"{row['ratio']:.2f}", mfu, memory)
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
