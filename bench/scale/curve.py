"""Predicts the throughput from 1 to 64 nodes by simulating the run (simulation.py) on a machine of a file."""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ...engine.configuration.config import to_plain_dict
from ...engine.console import plural
from ...pipelines.structured import read_json
from ..common.results import Results, make_results
from ..stalls.feed_stages import DECODE, NETWORK
from .command import ScaleOptions
from .machines import Machine, load_machine, load_photograph
from .network import vgg
from .prediction import Ceilings, TrainingJob, in_memory, predict

_CURVE = (1, 2, 4, 8, 16, 32, 64)
_FIX = "make it with 'photochrom bench stalls --config RECIPE --data SHARDS --out stalls.json'"
_MIN_GAIN = 1.02  # of throughput, for advice
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
    "computing": "faster devices, or a lower precision",
    "all-reduce": "a faster network, --grad-compression, or larger batches",
    "scatter": "steps that take equal time on all devices",
}


def measure(options: ScaleOptions) -> Results:
    """Returns the curve: throughput, waiting, bottleneck and duration at each number of nodes."""
    machine, job = load_machine(options.machine), _job(options)
    gpus = options.gpus or round(machine.gpus.value)
    rows = [predict(machine, job, nodes, gpus) for nodes in sorted({*_CURVE, options.nodes})]
    row = next(row for row in rows if row["nodes"] == options.nodes)
    return make_results(options, torch.device("cpu"), rows, _sentence(row, machine, options)) | {
        "predicted_for": {"name": machine.name, "about": machine.about, "gpus": gpus, "figures": machine.sources()},
        "photograph": job.photograph.model_dump(),
        "network": {"flops": job.network.flops, "gradient_bytes": job.network.gradient_bytes},
        "in_memory": in_memory(machine, job),
        "ceilings": to_plain_dict(job.ceilings),
    }


def _job(options: ScaleOptions) -> TrainingJob:
    return TrainingJob(
        network=vgg(options.width, options.size),
        photograph=load_photograph(options.stored),
        batch=options.batch_per_gpu,
        images=options.images,
        epochs=options.epochs,
        precision=options.precision,
        grad_compression=options.grad_compression,
        ceilings=_load_ceilings(options.ceilings, options.width, options.size) if options.ceilings else None,
    )


def _load_ceilings(path: Path, width: float, size: int) -> Ceilings:
    """Returns the ceilings in a result of `bench stalls` for this width and size. Raises ValueError for other files."""
    try:
        results = read_json(path)
        rows = {row["adds"]: row for row in results["rows"]}
        settings, cold = results["settings"], results["cold_reading(img/s)"]
        network, decoding = rows[NETWORK]["median(img/s)"], rows[DECODE]["alone(img/s)"]
        measured = settings["model"]["init_args"].get("width", 1.0), settings["data"]["size"]
    except OSError as error:
        raise ValueError(f"--ceilings {path} cannot be read ({error.strerror}): {_FIX}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(f"--ceilings {path} is not a result of bench stalls: {_FIX}") from None
    if measured != (width, size):
        raise ValueError(
            f"--ceilings {path} was measured with width {measured[0]:g} and size {measured[1]}: give "
            f"--width {measured[0]:g} --size {measured[1]}, or measure again"
        )
    cores = int(results["machine"]["cores"])
    return Ceilings(
        step=1 / network,
        load=1 / decoding,
        threads=min(cores, settings["loader"]["threads"] or cores),
        on_device=results["machine"]["device"] != "cpu" and settings["loader"]["backend"] in ("auto", "dali"),
        disk=statistics.median(cold) if cold else None,
    )


def _sentence(row: dict[str, Any], machine: Machine, options: ScaleOptions) -> str:
    nodes = plural(row["nodes"], "node")
    return (
        f"{nodes} of {machine.name}, {row['devices']} devices, {_STORED[options.stored]}: "
        f"{row['rate(img/s)']:,.0f} images/s, {row['efficiency(%)']:.0f} % of the throughput without waiting; "
        f"bottleneck: {_WORDS[row['bottleneck']]}; "
        f"{options.epochs} epochs of {options.images:,} photographs take {_duration(row['run(h)'])}"
    )


def _duration(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 2 else f"{60 * hours:.0f} min" if 60 * hours >= 2 else f"{3600 * hours:.0f} s"


def notes(results: Results) -> Iterator[str]:
    """Yields what would help at options.nodes, what was assumed, and the original project's machines."""
    row = next(row for row in results["rows"] if row["nodes"] == results["settings"]["nodes"])
    for name, gain in sorted(row["gains"].items(), key=lambda item: -item[1]):
        if gain > _MIN_GAIN:
            yield f"without {_WORDS[name]}: {gain:.2f} times the throughput ({_ADVICE[name]})"
    if row["batch"] > results["settings"]["images"] / 20:
        yield f"a step of {row['batch']:,} photographs is more than a twentieth of the set: expect other accuracy"
    if not results["in_memory"]:
        yield "the set does not fit into half of a node's memory: every epoch is read from the disk"
    sources = results["predicted_for"]["figures"]
    if assumed := [key for key, entry in sources.items() if entry["source"].startswith("assumed")]:
        yield f"assumed, not measured or documented: {', '.join(assumed)}"
