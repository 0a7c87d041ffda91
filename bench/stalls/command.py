"""photochrom bench stalls --config RECIPE --data SHARDS: where training waits

Runs the configured step on synthetic, cached, in-memory and on-disk data (feed_stages.py). The time that each stage
adds is a stall (diagnosis.py).
"""

import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from matplotlib.figure import Figure
from rich.table import Table

from ...engine.configuration.config import RunConfig, to_plain_dict
from ...engine.console import console
from ...engine.distributed import make_trainer
from ...engine.training.loop import Run
from ...engine.training.run import prepare
from ...pipelines import DaliLoader, ShardSet
from ...pipelines.remote import RemotePath
from ...pipelines.system import available_cpus
from ..common.options import RunOptions, parse_run, used_settings
from ..common.results import Found, figures, publish
from ..common.timing import Clock, collect
from ..dev.order import cold_seconds
from .diagnosis import Diagnosis, SystemInfo, diagnose
from .feed_stages import NETWORK, Carry, FeedStage, feed_stages

_COLD_BATCHES = 8
_FEWEST = 2  # steps that are timed at a time
_TURNS = 4  # of each level in the time that is given
_NOISY = 1.5  # times the slowest round of a level as fast
_WITH, _ALONE = "with the network", "alone"


@dataclass(frozen=True, kw_only=True)
class StallsOptions(RunOptions):
    """Runs the same step on synthetic, cached, in-memory and on-disk data, names the bottleneck, and ranks fixes by
    expected speed-up.

    All else is as in 'photochrom train': --config RECIPE, then settings by their dotted names.

    Args:
        data: The shard set.
        seconds: How long to measure, after a round to warm up; slow steps take longer, three rounds at least.
        out: File for the figures as JSON; a picture of them goes beside it.
    """

    data: str
    seconds: float = 60.0
    out: Path | None = None


def main(argv: list[str], prog: str) -> int:
    options, config = parse_run(StallsOptions, argv, prog)
    publish(measure(config, options.seconds), options.out, show=show, notes=advice, draw=draw)
    return 0


def measure(config: RunConfig, seconds: float, carry: Carry | None = None) -> Found:
    """What each level takes, what bottleneck, and what would help; `carry` is what `feed_stages` takes."""
    accelerator = make_trainer(config.train)
    if accelerator.num_processes > 1:
        raise ValueError("bench stalls looks at one process: start it without a launcher")
    cold = _cold(config)  # while nobody has the set open: what is mapped, the system does not let go of
    run = prepare(config, accelerator, None)
    with ExitStack() as stack:
        for loader in filter(None, (run.loader, run.validation, run.preview)):
            stack.callback(loader.close)
        found = list(feed_stages(run, carry))
        for level in found:
            stack.callback(level.close)
        console.print(f"{len(found)} distances in turn, for {seconds:g} s or three rounds, after one to warm up ...")
        times = collect(_rounds(run, found, seconds / (2 * _TURNS * len(found))), seconds)
    taken = significant({level.adds: times[f"{level.adds}, {_WITH}"] for level in found})
    alone = {
        level.adds: statistics.median(times[f"{level.adds}, {_ALONE}"]) for level in found if level.adds != NETWORK
    }
    diagnosis = diagnose(taken, _circumstances(run), alone=alone, cold=statistics.median(cold) if cold else None)
    rows = [_row(level.adds, times, diagnosis) for level in found]
    report = figures(config, run.accelerator.device, rows, diagnosis.sentence)
    return report | {
        "diagnosis": to_plain_dict(diagnosis),
        "settings": used_settings(config, seconds=seconds),
        "cold_reading(img/s)": [1 / it for it in cold],
    }


def significant(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each level's times; where not even its fastest round is slower, no more than the level before's."""
    medians: dict[str, float] = {}
    for name, values in times.items():
        before, median = next(reversed(medians.values()), 0.0), statistics.median(values)
        medians[name] = min(median, before) if min(values) <= before else median
    return medians


def _cold(config: RunConfig) -> list[float]:
    """Seconds per photograph to read from an empty page cache, a few batches each time; none where that cannot be.

    Afterwards a set that fits into memory is there again.
    """
    data, batch_size = ShardSet.open(config.data.train), config.train.batch_size
    if isinstance(data.root, RemotePath) or not hasattr(os, "posix_fadvise"):
        return []
    batches = max(1, min(_COLD_BATCHES, data.num_samples // batch_size))
    seconds = [cold_seconds(data, batch_size, batches, config.loader.shuffle_block_size, seed) for seed in range(3)]
    if _fits(_stored(data)):
        for shard in data.shards:
            _read_through(Path(str(data.root / f"{shard.name}.tar")))
    return seconds


def _read_through(path: Path) -> None:
    with open(path, "rb") as file:
        while file.read(1 << 22):
            pass


def _stored(data: ShardSet) -> float:
    return float(sum(shard.bytes for shard in data.shards))


def _fits(size: float) -> bool:
    return size < 0.5 * psutil.virtual_memory().available


def _rounds(run: Run, found: Sequence[FeedStage], seconds: float) -> Iterator[dict[str, float]]:
    """Endless rounds: the seconds per photograph of each level, with the network and without."""
    while True:
        taken = {}
        for level in found:
            taken[f"{level.adds}, {_WITH}"] = _seconds_per_image(run, level, seconds, learns=True)
            if level.adds != NETWORK:
                taken[f"{level.adds}, {_ALONE}"] = _seconds_per_image(run, level, seconds, learns=False)
        yield taken


def _seconds_per_image(run: Run, level: FeedStage, seconds: float, *, learns: bool) -> float:
    for _ in range(run.config.loader.prefetch_batches + 1):  # what was prepared meanwhile does not count
        _step(run, level, learns=learns)
    clock, total, steps = Clock(run.accelerator.device), 0.0, 0
    while steps < _FEWEST or total < seconds:
        _step(run, level, learns=learns)
        steps += 1
        if steps % _FEWEST == 0:
            total += clock.lap()
    return total / (steps * run.loader.batch_size)


def _step(run: Run, level: FeedStage, *, learns: bool) -> None:
    batch = next(level.batches)
    if learns:
        run.trainer.train_step(batch, step=0, lr=run.lr(0))


def _circumstances(run: Run) -> SystemInfo:
    data, loader = run.loader.data, run.loader
    sides = data.sizes.astype(float)
    pixels = sides.prod(axis=1)
    factor = (9 / 8 * run.config.data.size / sides.min(axis=1)).clip(max=1)
    on_gpu = run.accelerator.device.type == "cuda"
    return SystemInfo(
        threads=loader.threads,
        cores=available_cpus(),
        pixels=float(pixels.mean()),
        needed_pixels=float((pixels * factor**2).mean()),
        fits=_fits(_stored(data)),
        fits_decoded=_fits(3 * float(pixels.sum())),
        on_gpu=on_gpu,
        decodes_on_gpu=on_gpu and isinstance(loader, DaliLoader),
    )


def _row(name: str, times: dict[str, list[float]], diagnosis: Diagnosis) -> dict[str, Any]:
    values, alone = times[f"{name}, {_WITH}"], times.get(f"{name}, {_ALONE}")
    return {
        "adds": name,
        "median(img/s)": 1 / statistics.median(values),
        "min(img/s)": 1 / max(values),
        "max(img/s)": 1 / min(values),
        "alone(img/s)": 1 / statistics.median(alone) if alone else None,
        "share(%)": 100 * diagnosis.shares[name] if name in diagnosis.shares else None,
        "num_rounds": len(values),
    }


def show(found: Found) -> Table:
    """The feed_stages, one a line."""
    table = Table("", "images/s", "slowest", "fastest", "without the network", "of the time", box=None)
    for number, row in enumerate(found["rows"]):
        rates = (f"{row[f'{which}(img/s)']:,.0f}" for which in ("median", "min", "max"))
        alone = "" if row["alone(img/s)"] is None else f"{row['alone(img/s)']:,.0f}"
        share = "" if row["share(%)"] is None else f"{row['share(%)']:.0f} %"
        table.add_row(("+ " if number else "") + row["adds"], *rates, alone, share)
    return table


def advice(found: Found) -> Iterator[str]:
    """How sure it is, what reading alone is capable of, and what would help, best first."""
    noise = max(row["max(img/s)"] / row["min(img/s)"] for row in found["rows"])
    if noise > _NOISY:
        yield f"rounds of the same differ by {noise:.1f} times: measure while nothing else runs, or with more --seconds"
    if cold := found["cold_reading(img/s)"]:
        yield f"from an empty page cache the set is read at {statistics.median(cold):,.0f} images/s"
    now = found["diagnosis"]["rate"]
    for remedy in found["diagnosis"]["remedies"]:
        expected = remedy["expected"]
        gain = "measure it" if expected is None else f"{expected:,.0f} images/s expected, {expected / now:.1f} times"
        yield f"{remedy['what']} ({gain})"


def draw(found: Found, path: Path) -> None:
    """A bar of a photograph's time, in the resources that take it."""
    rate = found["diagnosis"]["rate"]
    figure = Figure(figsize=(9, 2.2), layout="constrained")
    axes = figure.subplots()
    start = 0.0
    for row in found["rows"]:
        if row["share(%)"]:
            width = 10 * row["share(%)"] / rate  # milliseconds
            axes.barh(0, width, left=start, label=f"{row['adds']}: {row['share(%)']:.0f} %")
            start += width
    axes.set(xlabel="milliseconds per photograph", yticks=[], title=found["verdict"])
    figure.legend(loc="outside lower center", ncols=6, frameon=False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, dpi=120)
