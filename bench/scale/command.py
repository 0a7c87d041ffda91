"""photochrom bench scale --nodes N --gpus M: what training makes of so many machines, from what one of them can do

A simulation of the run (simulation.py) on machines that are files (machines/*.yaml). With --published it is held
against what others have measured; with --check, against processes on this machine.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.table import Table

from ...engine.configuration.config import check_image_size, to_plain_dict
from ...engine.console import plural
from ..common.results import Found, figures, run
from .ceilings import load_ceilings
from .machines import Machine, load_machine
from .network import vgg
from .photographs import Stored, load_photograph
from .prediction import Point, Precision, TrainingJob, in_memory, predict, seconds

_CURVE = (1, 2, 4, 8, 16, 32, 64)
_ORIGINAL = "v100-n1-highmem-16"
_WORTH = 1.02  # times the rate: what gains less is no advice
_WORDS = {
    "storage": "reading from storage",
    "decoding": "decoding",
    "computing": "the network's own arithmetic",
    "all-reduce": "all-reduce",
    "scatter": "waiting for the slowest device",
}
_STORED = {
    "original-recipe": "files read by the original's recipe",
    "originals": "photographs packed as they are",
    "packed": "photographs packed at 288",
    "lab": "photographs packed as Lab",
}
_ADVICE = {
    "storage": "a faster disk, or packed photographs",
    "decoding": "more or faster cores, or --stored packed or lab",
    "computing": "faster devices, or fewer bits",
    "all-reduce": "a faster network, --grad_compression, or larger batches",
    "scatter": "steps that take the same time on all devices",
}


@dataclass(frozen=True, kw_only=True)
class ScaleOptions:
    """Predicts images per second, waiting, and the time of a training run on many machines, and says what bottleneck.

    With --check as the first word, it runs on this machine's cores what it predicts: see --check --help.

    Args:
        nodes: Machines to predict for, besides the curve from 1 to 64.
        gpus: Devices of each; by default those that the machine has.
        machine: Name of a machine that comes along, or a .yaml file like those in bench/machines.
        stored: How the set lies on the disk, which decides what a photograph costs: original-recipe, files as the
            original project reads them; originals; packed; or lab.
        images: Photographs in the set; 16873 are SUN2012.
        epochs: Passes over it.
        batch_per_gpu: Photographs of a step on each device; 56 on each of 4 are the recipe's 224.
        batch_size: Photographs of a step over all devices, as train.batch_size; in place of the other.
        width: Of the network.
        size: Side of the photographs in pixels.
        precision: half, fp16 or bf16; fp32, with TF32 where there is such; auto is half where the machine has it.
        grad_compression: Gradients travel in half the bytes.
        ceilings: Result of bench stalls, whose rates replace the machine's estimates.
        published: Hold the simulation against published figures instead.
        seconds: No further point of the curve is begun after so long.
        seed: Of what scatters.
        out: File for the figures as JSON; a picture of them goes beside it.
    """

    nodes: int = 3
    gpus: int | None = None
    machine: str = _ORIGINAL
    stored: Stored = "packed"
    images: int = 16_873
    epochs: int = 100
    batch_per_gpu: int = 56
    batch_size: int | None = None
    width: float = 1.0
    size: int = 256
    precision: Precision = "auto"
    grad_compression: bool = False
    ceilings: Path | None = None
    published: bool = False
    seconds: float = 60.0
    seed: int = 0
    out: Path | None = None

    def __post_init__(self) -> None:
        for name in ("nodes", "gpus", "images", "epochs", "batch_per_gpu", "batch_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} {value} is not a positive number")
        if not self.seconds > 0:
            raise ValueError(f"--seconds {self.seconds} is not positive")
        if self.seed < 0:
            raise ValueError(f"--seed {self.seed} is negative")
        check_image_size(self.size, "--size ")


def main(argv: list[str], prog: str) -> int:
    if argv[:1] == ["--check"]:
        from . import checking

        return checking.main(argv[1:], prog=f"{prog} --check")
    if "--published" in argv:
        from . import published

        return run(argv, ScaleOptions, published.measure, prog=prog, show=published.show, draw=published.draw)
    return run(argv, ScaleOptions, measure, prog=prog, show=show, notes=notes, draw=draw)


def measure(options: ScaleOptions) -> Found:
    """The curve, what bottleneck at each point of it, and what the whole run takes."""
    machine, job = load_machine(options.machine), _job(options)
    gpus = options.gpus or round(machine.gpus.value)
    points = list(_curve(options, machine, job, gpus))
    rows = [_row(point, machine, job_at(job, options, point.devices), options.epochs) for point in points]
    here = next(row for row in rows if row["nodes"] == options.nodes)
    report = figures(options, torch.device("cpu"), rows, _sentence(here, machine, options))
    return report | {
        "predicted_for": {"name": machine.name, "about": machine.about, "gpus": gpus, "figures": machine.sources()},
        "photograph": to_plain_dict(job.photograph),
        "network": {"flops": job.network.flops, "gradient_bytes": job.network.gradient_bytes},
        "in_memory": in_memory(machine, job),
        "ceilings": to_plain_dict(job.ceilings),
        "original_setup": _original(options, machine, job) if machine.name == _ORIGINAL else [],
    }


def _job(options: ScaleOptions) -> TrainingJob:
    return TrainingJob(
        network=vgg(options.width, options.size),
        photograph=load_photograph(options.stored),
        batch=options.batch_per_gpu,
        images=options.images,
        precision=options.precision,
        grad_compression=options.grad_compression,
        ceilings=load_ceilings(options.ceilings, options.width, options.size) if options.ceilings else None,
    )


def job_at(job: TrainingJob, options: ScaleOptions, devices: int) -> TrainingJob:
    """The job with its batch divided over so many devices, where one of all devices was asked for."""
    return replace(job, batch=max(1, options.batch_size // devices)) if options.batch_size else job


def _curve(options: ScaleOptions, machine: Machine, job: TrainingJob, gpus: int) -> Iterator[Point]:
    """The points that were asked for first, then the others as long as there is time."""
    deadline = time.perf_counter() + options.seconds
    points: list[Point] = []
    for nodes in (options.nodes, *(nodes for nodes in _CURVE if nodes != options.nodes)):
        too_many = options.batch_size is not None and options.batch_size < nodes * gpus
        if points and (too_many or time.perf_counter() > deadline):
            continue
        if too_many:
            raise ValueError(
                f"--batch-size {options.batch_size} leaves some of {nodes * gpus} devices without a share: enlarge it"
            )
        points.append(predict(machine, job_at(job, options, nodes * gpus), nodes, gpus, seed=options.seed))
    yield from sorted(points, key=lambda point: point.nodes)


def _row(point: Point, machine: Machine, job: TrainingJob, epochs: int) -> dict[str, Any]:
    outcome = point.outcome
    return {
        "nodes": point.nodes,
        "devices": point.devices,
        "batch": job.batch * point.devices,
        "rate(img/s)": point.rate,
        "ideal(img/s)": point.ideal,
        "efficiency(%)": 100 * point.rate / point.ideal,
        "mfu(%)": 100 * point.mfu,
        "computing(%)": 100 * outcome.computing,
        "data_wait(%)": 100 * outcome.data,
        "slowest_wait(%)": 100 * outcome.others,
        "all_reduce(%)": 100 * outcome.reducing,
        "cold_rate(img/s)": point.cold,
        "epoch(s)": job.images / point.rate,
        "run(h)": seconds(point, machine, job, epochs) / 3600,
        "bottleneck": point.bottleneck,
        "gains": point.gains,
    }


def _original(options: ScaleOptions, machine: Machine, job: TrainingJob) -> list[dict[str, Any]]:
    """What the original project's VMs make of its training, with its reading and its fp32, and with ours."""
    found = []
    cases: tuple[tuple[Stored, Precision], ...] = (
        ("original-recipe", "fp32"),
        ("original-recipe", "half"),
        ("originals", "half"),
        ("packed", "half"),
    )
    for stored, precision in cases:
        for nodes in (1, 3):
            each = replace(job, photograph=load_photograph(stored), batch=56, precision=precision)
            point = predict(machine, each, nodes, 4, seed=options.seed)
            row = _row(point, machine, each, options.epochs)
            found.append({"stored": stored, "precision": "fp16" if precision == "half" else precision, **row})
    return found


def _sentence(row: dict[str, Any], machine: Machine, options: ScaleOptions) -> str:
    nodes = plural(row["nodes"], "node")
    return (
        f"{nodes} of {machine.name}, {row['devices']} devices, {_STORED[options.stored]}: "
        f"{row['rate(img/s)']:,.0f} images/s, "
        f"{row['efficiency(%)']:.0f} % of what the devices can; {_WORDS[row['bottleneck']]} bottleneck; "
        f"{options.images:,} photographs {options.epochs} times take {_duration(row['run(h)'])}"
    )


def _duration(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 2 else f"{60 * hours:.0f} min" if 60 * hours >= 2 else f"{3600 * hours:.0f} s"


def notes(found: Found) -> Iterator[str]:
    """What would help where it was asked for, what was assumed, and the original project's set-up."""
    here = next(row for row in found["rows"] if row["nodes"] == found["settings"]["nodes"])
    for name, gain in sorted(here["gains"].items(), key=lambda item: -item[1]):
        if gain > _WORTH:
            yield f"were {_WORDS[name]} free: {gain:.2f} times the rate ({_ADVICE[name]})"
    if here["batch"] > found["settings"]["images"] / 20:
        yield f"a step of {here['batch']:,} photographs is more than a twentieth of the set: it learns otherwise"
    if not found["in_memory"]:
        yield "the set does not fit into half of a node's memory: every epoch is read from the disk"
    for row in found["original_setup"]:
        yield (
            f"the original's {plural(row['nodes'], 'VM')} in {row['precision']}, {_STORED[row['stored']]}: "
            f"{row['rate(img/s)']:,.0f} images/s, {row['data_wait(%)']:.0f} % waiting for data, "
            f"{row['mfu(%)']:.0f} % of the peak, {_duration(row['run(h)'])}; {row['bottleneck']} bottleneck"
        )
    sources = found["predicted_for"]["figures"]
    if assumed := [key for key, each in sources.items() if each["source"].startswith("assumed")]:
        yield f"assumed, not measured or documented: {', '.join(assumed)}"


def show(found: Found) -> Table:
    """The curve, a point a line."""
    headings = ("nodes", "devices", "batch", "images/s", "of ideal", "computes", "waits: data", "slowest", "all-reduce")
    table = Table(*headings, "epoch", "run", "bottleneck", box=None, header_style="bold")
    for row in found["rows"]:
        shares = (f"{row[f'{name}(%)']:.0f} %" for name in ("efficiency", *_SHARES))
        table.add_row(
            *(f"{row[key]:,.0f}" for key in ("nodes", "devices", "batch", "rate(img/s)")),
            *shares,
            f"{row['epoch(s)']:.1f} s",
            _duration(row["run(h)"]),
            row["bottleneck"],
        )
    return table


_SHARES = {
    "computing": "computes",
    "data_wait": "waits for data",
    "slowest_wait": "waits for the slowest device",
    "all_reduce": "waits for all-reduce",
}


def draw(found: Found, path: Path) -> None:
    """Rate over nodes beside what it would be without waiting, and what the devices do."""
    rows = found["rows"]
    nodes = [row["nodes"] for row in rows]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    rates, shares = figure.subplots(1, 2)
    rates.loglog(nodes, [row["ideal(img/s)"] for row in rows], "--", color="0.6", label="devices that never wait")
    rates.loglog(nodes, [row["rate(img/s)"] for row in rows], "o-", label="predicted")
    rates.set(xlabel="nodes", ylabel="images per second", xticks=nodes, xticklabels=nodes)
    rates.minorticks_off()
    rates.legend(frameon=False)
    bottom = [0.0] * len(rows)
    for (name, label), color in zip(_SHARES.items(), ("C0", "C1", "0.75", "C3"), strict=True):
        heights = [row[f"{name}(%)"] for row in rows]
        shares.bar(range(len(rows)), heights, bottom=bottom, label=label, color=color)
        bottom = [below + height for below, height in zip(bottom, heights, strict=True)]
    shares.set(xlabel="nodes", ylabel="% of a device's time", ylim=(0, 100), xticks=range(len(rows)), xticklabels=nodes)
    figure.legend(*shares.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    about, stored = found["predicted_for"], found["settings"]["stored"]
    figure.suptitle(f"{about['name']}, {about['gpus']} devices a node, {_STORED[stored]}", fontsize=11)
    for axes in (rates, shares):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
