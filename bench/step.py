"""photochrom bench step --config RECIPE: how fast the training step is, by precision, layout, dilation and compilation

All variants take steps on the same batch, which is there already, in turn. The first is what a training script does
that sets nothing, but for TF32 and cuDNN's choice of algorithms, which hold for all.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any, get_args

import torch
from accelerate.state import AcceleratorState
from matplotlib.figure import Figure
from rich.table import Column, Table

from ..engine.configuration.config import ClassSpec, Compile, MemoryFormat, Precision, RunConfig, to_plain_dict
from ..engine.configuration.registry import build_loss, build_model, with_prior
from ..engine.console import console, plural
from ..engine.distributed import make_trainer, resolve_compile, resolve_device
from ..engine.training.flops import flops_per_image, published_peak
from ..engine.training.train_step import Trainer
from ..losses.quantization import ab_bins
from ..models.vgg import Dilation
from ..pipelines import LabBatch
from ..pipelines.loading.synthetic_loader import random_lab
from .common.options import RunOptions, parse_run, used_settings
from .common.results import Found, figures, publish
from .common.timing import MIN_ROUNDS, Clock, collect, turns

CONFIGURED, PARTS = "as configured", ("forward", "backward", "optimizer")

_ON_CPU = [
    "fp32",
    "fp32 channels_last",
    "fp32 channels_last space_to_batch",
    "fp32 channels_last activation_checkpointing",
]
_ON_GPU = [
    "fp32",
    "fp32 channels_last",
    "bf16",
    "bf16 channels_last",
    "bf16 channels_last space_to_batch",
    "bf16 channels_last default",
    "bf16 channels_last default space_to_batch",
    "bf16 channels_last reduce-overhead space_to_batch",
    "bf16 channels_last activation_checkpointing",
    "fp16 channels_last",
    "fp16 channels_last space_to_batch",
]
_MOST_ON_CPU = 4  # photographs in a step, if nobody says otherwise


@dataclass(frozen=True, kw_only=True)
class StepOptions(RunOptions):
    """Measures training steps of one process on batches that are on the device already: images per second, MFU, memory,
    and what forward, backward and optimizer take.

    All else is as in 'photochrom train': --config RECIPE, then settings by their dotted names.

    Args:
        variants: Each a few words: a precision, a memory format, a dilation, a compile mode, activation_checkpointing.
            What is not named has torch's default. By default, the variants that may be faster on this device.
        batch_sizes: Photographs in a step; all variants are measured with each. By default
            train.batch_size, but on a CPU no more than 4.
        find_max_batch: Look for the largest batch that fits, as configured and of the fastest variant; it takes a step, and
            compiles, at some ten sizes. A CPU's memory has no bound that could be tried out.
        peak_tflops: What the device can do, for MFU; by default what its maker publishes.
        seconds: How long to measure, after one round to warm up; slow steps take longer, three rounds at least.
        out: File for the figures as JSON; a picture of them goes beside it.
    """

    variants: list[str] = field(default_factory=list)
    batch_sizes: list[int] = field(default_factory=list)
    find_max_batch: bool = False
    peak_tflops: float | None = None
    seconds: float = 60.0
    out: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(size > 0 for size in self.batch_sizes):
            raise ValueError(f"--batch-sizes {self.batch_sizes} are not all positive")


def main(argv: list[str], prog: str) -> int:
    options, config = parse_run(StepOptions, argv, prog)
    publish(measure(config, options), options.out, show=show, notes=notes, draw=draw)
    return 0


def measure(config: RunConfig, options: StepOptions) -> Found:
    """What each variant takes with each batch size, which is fastest, and the largest batch that fits."""
    device = resolve_device(config.train.device)
    if options.find_max_batch and device.type == "cpu":
        raise ValueError("--find-max-batch looks for the end of a GPU's memory, and this is a CPU: leave it away")
    variants = options.variants or (_ON_GPU if device.type == "cuda" else _ON_CPU)
    runs = {name: varied(config, name) for name in variants} | {CONFIGURED: config}
    most = config.train.batch_size if device.type == "cuda" else _MOST_ON_CPU
    sizes = options.batch_sizes or [min(config.train.batch_size, most)]
    skipped: dict[str, str] = {}
    console.print(f"{plural(len(runs), 'variant')} in turn, for {options.seconds:g} s, or three rounds ...")
    rows = [row for size in sizes for row in _measured(runs, size, options.seconds / len(sizes), device, skipped)]
    if not rows:
        raise ValueError(f"no variant could take a step: {'; '.join(dict.fromkeys(skipped.values()))}")
    flops = flops_per_image(build_model(config.model), config.data.size, device)
    for row in rows:
        peak = 1e12 * (options.peak_tflops or 0) or published_peak(device, row.pop("arithmetic"))
        row["mfu(%)"] = 100 * flops * row["median(img/s)"] / peak if peak else None
    best = max(rows, key=lambda row: row["median(img/s)"])
    verdict = (
        f"fastest is {best['variant']} with batches of {best['batch_size']}: {best['ratio']:.2f} times "
        f"{best['reference']}; a photograph takes {flops / 1e9:.1f} GFLOP"
    )
    names = (CONFIGURED, best["variant"]) if options.find_max_batch else ()
    return figures(config, device, rows, verdict) | {
        "settings": used_settings(config, **to_plain_dict(options)),
        "skipped": skipped,
        "largest_batch": _largest(runs, names, device),
    }


def _measured(
    runs: dict[str, RunConfig], batch_size: int, seconds: float, device: torch.device, skipped: dict[str, str]
) -> Iterator[dict[str, Any]]:
    torch.compiler.reset()  # what was compiled for one size would be compiled for any, now
    steps: dict[str, Step] = {}
    for name, run in runs.items():
        step = started(run, batch_size, device, most=seconds / (len(runs) * (MIN_ROUNDS + 1)))
        if isinstance(step, str):
            skipped[f"{name}, batches of {batch_size}"] = step
        else:
            steps[name] = step
    if not steps:
        return
    times = collect(turns({name: step.take for name, step in steps.items()}, device), seconds)
    parts = {name: [step.parts()] for name, step in steps.items()}
    for _ in range(MIN_ROUNDS - 1):
        for name, step in steps.items():
            parts[name].append(step.parts())
    medians = {name: statistics.median(values) for name, values in times.items()}
    reference = next(iter(medians))
    for name, values in times.items():
        yield {
            "variant": name,
            "batch_size": batch_size,
            "median(img/s)": batch_size / medians[name],
            "min(img/s)": batch_size / max(values),
            "max(img/s)": batch_size / min(values),
            "ratio": medians[reference] / medians[name],
            "reference": reference,
            "memory/peak(GiB)": steps[name].memory,
            **{f"{part}(ms)": _median(turn[part] for turn in parts[name]) for part in PARTS},
            "num_rounds": len(values),
            "arithmetic": steps[name].arithmetic,
        }


def _median(milliseconds: Iterable[float | None]) -> float | None:
    known = [value for value in milliseconds if value is not None]
    return statistics.median(known) if known else None


class Step:
    """A step of a run, again and again on one batch. Raises ValueError where the machine cannot take it."""

    def __init__(self, run: RunConfig, batch_size: int, device: torch.device) -> None:
        AcceleratorState._reset_state()  # it allows one precision in a process
        train = replace(run.train, batch_size=batch_size, grad_accum_steps=1)
        accelerator = make_trainer(train)
        torch.manual_seed(0)
        # Any colours are as rare as any other: what a loss weighs does not change its time.
        loss = build_loss(with_prior(run.loss, [1 / len(ab_bins())] * len(ab_bins())))
        self._learner = Trainer(build_model(run.model), loss, replace(run, train=train), accelerator)
        L, ab = random_lab(batch_size, run.data.size, seed=0)
        self._batch = LabBatch(L=L.to(device), ab=ab.to(device), index=torch.arange(batch_size))
        self._device, self._compiled = device, resolve_compile(train, device) != "off"
        self.arithmetic: str = accelerator.mixed_precision
        self.memory: float | None = None

    def take(self) -> None:
        self._learner.train_step(self._batch, step=0, lr=1e-5)

    def warm_up(self) -> None:
        """The first step, which tells how much memory one takes besides the weights, in GiB."""
        if self._device.type != "cuda":
            self.take()
            return
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        self.take()
        self.memory = (torch.cuda.max_memory_allocated(self._device) - before) / 2**30

    def seconds(self) -> float:
        """What one step takes."""
        clock = Clock(self._device)
        self.take()
        return clock.lap()

    def parts(self) -> dict[str, float | None]:
        """The milliseconds of each part of a step, forward with the loss; of compiled ones, which have no seams, None.

        Hooks wait for the device between the parts, which takes some of what it does at once from it.
        """
        if self._compiled:
            return dict.fromkeys(PARTS)
        clock = Clock(self._device)
        laps: list[float] = []
        hooks = (
            self._learner.loss.register_forward_hook(lambda *_: laps.append(clock.lap())),
            self._learner.optimizer.register_step_pre_hook(lambda *_: laps.append(clock.lap())),
        )
        clock.lap()
        self.take()
        laps.append(clock.lap())
        for hook in hooks:
            hook.remove()
        return {part: 1e3 * lap for part, lap in zip(PARTS, laps, strict=True)}


def started(run: RunConfig, batch_size: int, device: torch.device, most: float = math.inf) -> Step | str:
    """A step that has been taken twice, the second time in no more than `most` seconds; or why it cannot be."""
    try:
        step = Step(run, batch_size, device)
        step.warm_up()
        taken = step.seconds()
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return "it does not fit into the device's memory"
    except (ValueError, RuntimeError) as error:  # a device, or a compiler, that lacks something
        return f"{error}".strip().splitlines()[0]
    return step if taken <= most else f"a step takes {taken:.1f} s: give more --seconds to see it"


def _largest(runs: dict[str, RunConfig], names: Iterable[str], device: torch.device) -> dict[str, int]:
    """The largest batches with which a step can be taken."""

    def fits(run: RunConfig, number: int) -> bool:
        torch.compiler.reset()
        tried = isinstance(started(run, number, device), Step)
        torch.cuda.empty_cache()
        return tried

    return {name: largest(partial(fits, runs[name])) for name in dict.fromkeys(names)}


def largest(fits: Callable[[int], bool], *, most: int = 1 << 14) -> int:
    """The largest multiple of 8, up to `most`, that `fits`, to an eighth; 0 if not even 8 do."""
    good, bad = 0, 8
    while bad <= most and fits(bad):
        good, bad = bad, 2 * bad
    while bad - good > max(8, good // 8):
        middle = (good + bad) // 16 * 8
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def varied(config: RunConfig, name: str) -> RunConfig:
    """The run, changed as a variant's words say. Raises ValueError for a word that is none."""
    kinds = {"precision": Precision, "memory_format": MemoryFormat, "dilation": Dilation, "compile": Compile}
    chosen: dict[str, Any] = {
        "precision": "fp32",
        "memory_format": "contiguous",
        "compile": "off",
        "activation_checkpointing": False,
    }
    if config.model.class_path == "VGGColorizer":
        chosen["dilation"] = "native"
    for word in name.split():
        if word == "activation_checkpointing":
            chosen["activation_checkpointing"] = True
            continue
        kind = next((kind for kind, words in kinds.items() if word in get_args(words) and word != "auto"), None)
        if kind is None:
            known = [word for words in kinds.values() for word in get_args(words) if word != "auto"]
            raise ValueError(
                f"--variants has {word!r}, which is unknown: known are {', '.join(known)}, activation_checkpointing"
            )
        chosen[kind] = word
    model = {name: chosen.pop(name) for name in ("dilation",) if name in chosen}
    return replace(
        config,
        model=ClassSpec(class_path=config.model.class_path, init_args={**config.model.init_args, **model}),
        train=replace(config.train, **chosen),
    )


def show(found: Found) -> Table:
    """A line for each variant and batch size; what could not be known of any has no column."""
    rows = found["rows"]
    columns = {f"{part} ms": f"{part}(ms)" for part in PARTS} | {"MFU %": "mfu(%)", "GiB": "memory/peak(GiB)"}
    known = {heading: key for heading, key in columns.items() if any(row[key] is not None for row in rows)}
    headings = ("variant", "batch", "images/s", "slowest", "fastest", "ratio", *known)
    table = Table(*(Column(heading, no_wrap=True) for heading in headings), box=None, header_style="bold")
    for row in rows:
        rates = (f"{row[f'{which}(img/s)']:.1f}" for which in ("median", "min", "max"))
        rest = ("-" if row[key] is None else f"{row[key]:.1f}" for key in known.values())
        table.add_row(row["variant"], str(row["batch_size"]), *rates, f"{row['ratio']:.2f}", *rest)
    return table


def notes(found: Found) -> Iterator[str]:
    """The largest batches, and what could not be measured."""
    for name, number in found["largest_batch"].items():
        yield f"the largest batch that fits, {name}: {number} (to an eighth)"
    for name, why in found["skipped"].items():
        yield f"left out: {name}: {why}"


def draw(found: Found, path: Path) -> None:
    """A bar for each variant, with its spread."""
    rows = found["rows"]
    figure = Figure(figsize=(9, 1.2 + 0.35 * len(rows)), memory_format="constrained")
    axes = figure.subplots()
    rates = [row["median(img/s)"] for row in rows]
    spread = [[abs(row[f"{which}(img/s)"] - row["median(img/s)"]) for row in rows] for which in ("min", "max")]
    names = [f"{row['variant']}, {row['batch_size']}" for row in rows]
    axes.barh(range(len(rows)), rates, xerr=spread, capsize=3)
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.set(xlabel="images/s")
    figure.suptitle(fill(found["verdict"], 100), fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
