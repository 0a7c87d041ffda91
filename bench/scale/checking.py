"""photochrom bench scale --check --config RECIPE --data SHARDS: is a run of 1 and of 2 processes as fast as predicted?

On this machine's cores, a core for each process. Its pieces are measured one by one, with as many processes at work
as the run has; the simulation puts them together; and `photochrom train`, between two such measurements, shows what
they come to. All take turns, and what was measured while other programs were at work is measured again.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from rich.table import Table

from ...engine.configuration.config import RunConfig, save_yaml
from ...engine.configuration.registry import build_model
from ...engine.console import console, plural
from ..common.options import RunOptions, parse_run, used_settings
from ..common.results import Found, figures, publish
from . import drawing
from .network import Bucket, buckets, of_model, segments
from .simulation import Cluster, simulate

_RANKS = (1, 2)
_LINES = 5  # of metrics, of which the first is of warming up
_TIMEOUT = 600  # seconds for one process
_QUIET = 0.05  # of a core: what others may take meanwhile

Row = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class CheckOptions(RunOptions):
    """Holds predictions for 1 and 2 processes on this machine's cores against `photochrom train`.

    All else is as in 'photochrom train': --config RECIPE, then settings by their dotted names; train.batch_size is that
    of one process.

    Args:
        data: The shard set.
        seconds: How long to measure each piece, and each run, in a round; the error is the median of all rounds'.
        rounds: How often all take their turn.
        tries: How often, at most, each turn is taken while other programs disturb it; the least disturbed counts.
        seed: Of what scatters in the simulation.
        out: File for the figures as JSON.
    """

    data: str
    seconds: float = 5.0
    rounds: int = 3
    tries: int = 4
    seed: int = 0
    out: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rounds", "tries"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)} is not a positive number")


def main(argv: list[str], prog: str) -> int:
    options, config = parse_run(CheckOptions, argv, prog)
    publish(measure(config, options), options.out, show=show, draw=draw)
    return 0


def measure(config: RunConfig, options: CheckOptions) -> Found:
    """Predicted and measured rates, and the pieces that the predictions are made of."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < max(_RANKS):
        raise ValueError(f"bench scale --check needs {max(_RANKS)} cores, and this process may use {len(cores)}")
    config = replace(
        config,
        loader=replace(config.loader, threads=1),
        train=replace(config.train, device="cpu"),
        log=replace(config.log, trackers=[], preview_every=1 << 30, validate_every=1 << 30),
        checkpoint=replace(config.checkpoint, every=1 << 30),
    )
    found = list(buckets(of_model(build_model(config.model), config.data.size).layers))
    rounds: dict[int, list[Row]] = {ranks: [] for ranks in _RANKS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            console.print(f"round {number + 1} of {options.rounds} ...")
            for ranks in _RANKS:
                rounds[ranks].append(_round(config, options, ranks, cores, found, Path(folder)))
    rows = [_row(ranks, config, found, rounds[ranks], options.seed) for ranks in _RANKS]
    report = figures(options, torch.device("cpu"), rows, verdict(rows))
    return report | {"settings": used_settings(config, seconds=options.seconds, rounds=options.rounds)}


def verdict(rows: Sequence[Row]) -> str:
    """How far off predictions are at most, and where other programs were at work all the same."""
    numbers = " and ".join(str(row["processes"]) for row in rows)
    said = f"predictions for {numbers} processes are {max(abs(row['error(%)']) for row in rows):.1f} % off at most"
    disturbed = [
        f"{row['others(cores)']:.1f} cores during {plural(row['processes'], 'process', 'es')}"
        for row in rows
        if row["others(cores)"] > _QUIET
    ]
    return f"{said}; other programs took up to {' and '.join(disturbed)}" if disturbed else said


def _round(
    config: RunConfig, options: CheckOptions, ranks: int, cores: Sequence[int], found: Sequence[Bucket], folder: Path
) -> Row:
    """The seconds of each piece, and the rate of a run, with what others took meanwhile."""

    def measured() -> tuple[Row, float]:
        return _undisturbed(lambda: _pieces(config, ranks, cores, found, options.seconds / 2, folder), options.tries)

    pieces, before = measured()
    step = statistics.median(pieces["step"]) + statistics.median(pieces["load"])

    def trained() -> float:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            return _trained(config, ranks, cores, options.seconds / step, Path(out) / "run")

    rate, meanwhile = _undisturbed(trained, options.tries)
    again, after = measured()  # a machine's moods last for seconds
    return _joined(pieces, again) | {"rate": rate, "others": max(before, meanwhile, after)}


def _joined(one: Row, other: Row) -> Row:
    """The pieces of two measurements."""
    joined = {name: one[name] + other[name] for name in ("step", "load")}
    if "reduce" in one:
        joined["reduce"] = [a + b for a, b in zip(one["reduce"], other["reduce"], strict=True)]
    return joined


def _undisturbed(measure: Callable[[], T], tries: int) -> tuple[T, float]:
    """What is measured while others take hardly a core's time, at the least disturbed of some tries; and how much."""
    best: tuple[T, float] | None = None
    for _ in range(tries):
        clock, own, all_ = time.perf_counter(), _own_seconds(), _all_seconds()
        value = measure()
        others = (_all_seconds() - all_ - _own_seconds() + own) / (time.perf_counter() - clock)
        if best is None or others < best[1]:
            best = value, max(0.0, others)
        if others < _QUIET:
            break
    assert best
    return best


def _all_seconds() -> float:
    """Core seconds that all processes of this machine have taken, and other machines on the same hardware."""
    times = psutil.cpu_times()
    return float(sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal")))


def _own_seconds() -> float:
    """Core seconds of this process and of its children that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _pieces(
    config: RunConfig, ranks: int, cores: Sequence[int], found: Sequence[Bucket], seconds: float, folder: Path
) -> Row:
    """The seconds of each piece, from as many processes at a time."""
    file = folder / "config.yaml"
    save_yaml(replace(config, out=folder / "unused"), file)
    sizes = json.dumps([bucket.bytes for bucket in found])
    words = ["photochrom.bench.scale.microbenchmarks", str(file), str(seconds), json.dumps(list(cores)), sizes]
    return json.loads(_run(words, ranks, cores).splitlines()[-1])


def _trained(config: RunConfig, ranks: int, cores: Sequence[int], steps: float, out: Path) -> float:
    """Photographs per second of a run of so many processes, each with a batch of the configured size, once warm."""
    every = max(2, round(steps / (_LINES - 1)))
    train = replace(config.train, batch_size=config.train.batch_size * ranks, steps=every * _LINES)
    file = out.with_suffix(".yaml")
    save_yaml(replace(config, out=out, train=train, log=replace(config.log, every=every)), file)
    _run(["photochrom", "train", "--config", str(file)], ranks, cores)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return statistics.median(line["throughput(img/s)"] for line in lines[1:] if "throughput(img/s)" in line)


def _run(words: Sequence[str], ranks: int, cores: Sequence[int]) -> str:
    """What a module prints, run by so many processes on as many cores."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    with subprocess.Popen(
        [sys.executable, *launcher, "-m", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=_onto(cores[:ranks]),
    ) as process:
        try:
            printed, errors = process.communicate(timeout=_TIMEOUT)
        except subprocess.TimeoutExpired:
            _end(psutil.Process(process.pid))
            raise ValueError(
                f"{words[0]} was not done after {_TIMEOUT} s: give fewer --seconds, or a smaller network or batch"
            ) from None
    if process.returncode:
        why = " ".join(errors.strip().splitlines()[-1:])
        raise ValueError(f"{words[0]} has failed ({why}): see whether 'photochrom train' does with the same settings")
    return printed


def _end(launcher: psutil.Process) -> None:
    """Ends a process and those that it has started, which would go on without it."""
    for process in (launcher, *launcher.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _onto(cores: Sequence[int]) -> Callable[[], None]:
    return lambda: os.sched_setaffinity(0, cores)


def predicted(batch: int, ranks: int, found: Sequence[Bucket], pieces: Row, seed: int) -> float:
    """Photographs per second of processes that have a core each, from the seconds of each piece.

    Computing, making photographs ready and moving gradients take that core from one another. What adds up over many
    steps are means, of which a few slow ones are part.
    """
    step, load = (statistics.fmean(pieces[name]) for name in ("step", "load"))
    to_buckets, optimizer = segments(found, step)
    cluster = Cluster(
        ranks=ranks,
        batch=batch,
        segments=to_buckets,
        optimizer=optimizer,
        reduce=[statistics.fmean(times) for times in pieces.get("reduce", [])],
        decode=load / batch,
        cores=ranks,
        threads=1,
        on_cores=True,
        step_jitter=_scatter(pieces["step"]),
        load_jitter=_scatter(pieces["load"]),
    )
    return simulate(cluster, steps=100, seed=seed).rate


def _scatter(times: Sequence[float]) -> float:
    """Standard deviation of the times' logarithm."""
    return statistics.stdev(map(log, times)) if len(times) > 1 else 0.0


def _row(ranks: int, config: RunConfig, found: Sequence[Bucket], rounds: Sequence[Row], seed: int) -> Row:
    def middle(of: Callable[[Row], float]) -> float:
        return statistics.median(map(of, rounds))

    predictions = [predicted(config.train.batch_size, ranks, found, each, seed) for each in rounds]
    rates = [each["rate"] for each in rounds]
    return {
        "processes": ranks,
        "predicted(img/s)": statistics.median(predictions),
        "median(img/s)": statistics.median(rates),
        "min(img/s)": min(rates),
        "max(img/s)": max(rates),
        "error(%)": 100 * (statistics.median(p / r for p, r in zip(predictions, rates, strict=True)) - 1),
        "step(ms)": 1e3 * middle(lambda each: statistics.fmean(each["step"])),
        "load(ms)": 1e3 * middle(lambda each: statistics.fmean(each["load"])),
        "all_reduce(ms)": 1e3 * middle(lambda each: sum(map(statistics.fmean, each.get("reduce", [])))),
        "step_jitter(%)": 100 * middle(lambda each: _scatter(each["step"])),
        "load_jitter(%)": 100 * middle(lambda each: _scatter(each["load"])),
        "others(cores)": max(each["others"] for each in rounds),
        "num_rounds": len(rounds),
        "rounds": [{"predicted(img/s)": p, "img/s": r} for p, r in zip(predictions, rates, strict=True)],
    }


def show(found: Found) -> Table:
    """A number of processes a line."""
    headings = ("processes", "predicted", "measured", "slowest", "fastest", "error", "step", "batch", "all-reduce")
    table = Table(*headings, box=None, header_style="bold")
    for row in found["rows"]:
        rates = (f"{row[f'{which}(img/s)']:,.1f}" for which in ("predicted", "median", "min", "max"))
        pieces = (f"{row[f'{name}(ms)']:.1f} ms" for name in ("step", "load", "all_reduce"))
        table.add_row(str(row["processes"]), *rates, f"{row['error(%)']:+.1f} %", *pieces)
    return table


def draw(found: Found, path: Path) -> None:
    """Predicted rates over measured ones."""
    dots = [
        drawing.Dot(
            label=plural(row["processes"], "process", "es"),
            found=row["median(img/s)"],
            predicted=row["predicted(img/s)"],
            spread=(row["min(img/s)"], row["max(img/s)"]),
        )
        for row in found["rows"]
    ]
    drawing.draw(dots, path, found="measured", unit="images per second")
