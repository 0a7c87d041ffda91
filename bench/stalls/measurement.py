"""Measures a run's step on synthetic, cached, in-memory and on-disk data (feed_stages.py), for diagnosis.py."""

import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ...engine.configuration.config import RunConfig, to_plain_dict
from ...engine.console import console
from ...engine.distributed import make_training_accelerator
from ...engine.training.loop import Run
from ...engine.training.run import prepare
from ...pipelines import DaliLoader, ShardSet
from ...pipelines.joined_shards import open_shards
from ...pipelines.remote import RemotePath
from ...pipelines.system import available_cpus, available_memory
from ..common.options import used_settings
from ..common.results import Results, make_results
from ..common.timing import Clock, collect, throughputs
from .cold_read import cold_seconds
from .diagnosis import Diagnosis, SystemInfo, diagnose
from .feed_stages import NETWORK, FeedStage, ToDevice, feed_stages

_COLD_BATCHES = 8
_MIN_STEPS = 2  # that are timed together
_ROUNDS = 4  # in the time that is given
_NOISY = 1.5  # fastest round of a stage over its slowest
_WITH, _ALONE = "with the network", "alone"


def measure(config: RunConfig, seconds: float, to_device: ToDevice | None = None) -> Results:
    """Returns the throughput of each stage and the diagnosis; `to_device` is that of `feed_stages`."""
    accelerator = make_training_accelerator(config.train)
    if accelerator.num_processes > 1:
        raise ValueError("bench stalls measures one process: start it without a launcher")
    cold = _cold_read(config)  # before the set is opened: the system keeps mapped files in its cache
    run = prepare(config, accelerator, None)
    with ExitStack() as stack:
        for loader in filter(None, (run.loader, run.validation, run.preview)):
            stack.callback(loader.close)
        stages = list(feed_stages(run, to_device))
        for stage in stages:
            stack.callback(stage.close)
        console.print(f"{len(stages)} stages in turn, for {seconds:g} s or three rounds, after a warm-up round ...")
        times = collect(_rounds(run, stages, seconds / (2 * _ROUNDS * len(stages))), seconds)
    names = [stage.adds for stage in stages]
    with_network = significant({name: times[f"{name}, {_WITH}"] for name in names})
    alone = {name: statistics.median(times[f"{name}, {_ALONE}"]) for name in names if name != NETWORK}
    diagnosis = diagnose(with_network, _system_info(run), alone=alone, cold=statistics.median(cold) if cold else None)
    rows = [_row(name, times, diagnosis) for name in names]
    return make_results(config, run.accelerator.device, rows, diagnosis.sentence) | {
        "diagnosis": to_plain_dict(diagnosis),
        "settings": used_settings(config, seconds=seconds),
        "cold_reading(img/s)": [1 / seconds_per_image for seconds_per_image in cold],
    }


def significant(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Returns the median time of each stage.

    A stage whose fastest round is no slower than the median of the stage before it takes no longer than that stage.
    """
    medians: dict[str, float] = {}
    for name, values in times.items():
        previous, median = next(reversed(medians.values()), 0.0), statistics.median(values)
        medians[name] = min(median, previous) if min(values) <= previous else median
    return medians


def _cold_read(config: RunConfig) -> list[float]:
    """Returns three measurements of the seconds per photograph to read from an empty page cache.

    Empty where the cache cannot be emptied. A set that fits into memory is read back into the cache afterwards.
    """
    data, batch_size = open_shards(config.data.train, config.data.weights), config.train.batch_size
    if isinstance(data.root, RemotePath) or not hasattr(os, "posix_fadvise"):
        return []
    batches = max(1, min(_COLD_BATCHES, data.num_samples // batch_size))
    seconds = [cold_seconds(data, batch_size, batches, config.loader.shuffle_block_size, seed) for seed in range(3)]
    if _fits_in_memory(_stored_bytes(data)):
        for tar in data.tars:
            _read_through(Path(str(tar)))
    return seconds


def _read_through(path: Path) -> None:
    with open(path, "rb") as file:
        while file.read(1 << 22):
            pass


def _stored_bytes(data: ShardSet) -> float:
    return float(sum(shard.bytes for shard in data.shards))


def _fits_in_memory(num_bytes: float) -> bool:
    return num_bytes < 0.5 * available_memory()


def _rounds(run: Run, stages: Sequence[FeedStage], seconds: float) -> Iterator[dict[str, float]]:
    """Yields endless rounds: the seconds per photograph of each stage, with the network and without."""
    while True:
        times = {}
        for stage in stages:
            times[f"{stage.adds}, {_WITH}"] = _seconds_per_image(run, stage, seconds, with_network=True)
            if stage.adds != NETWORK:
                times[f"{stage.adds}, {_ALONE}"] = _seconds_per_image(run, stage, seconds, with_network=False)
        yield times


def _seconds_per_image(run: Run, stage: FeedStage, seconds: float, *, with_network: bool) -> float:
    for _ in range(run.config.loader.prefetch_batches + 1):  # batches prefetched before the clock starts
        _step(run, stage, with_network=with_network)
    clock, total, steps = Clock(run.accelerator.device), 0.0, 0
    while steps < _MIN_STEPS or total < seconds:
        _step(run, stage, with_network=with_network)
        steps += 1
        if steps % _MIN_STEPS == 0:
            total += clock.lap()
    return total / (steps * run.loader.batch_size)


def _step(run: Run, stage: FeedStage, *, with_network: bool) -> None:
    batch = next(stage.batches)
    if with_network:
        run.trainer.train_step(batch, step=0, lr=run.lr(0))


def _system_info(run: Run) -> SystemInfo:
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
        fits=_fits_in_memory(_stored_bytes(data)),
        fits_decoded=_fits_in_memory(3 * float(pixels.sum())),
        on_gpu=on_gpu,
        decodes_on_gpu=on_gpu and isinstance(loader, DaliLoader),
    )


def _row(name: str, times: dict[str, list[float]], diagnosis: Diagnosis) -> dict[str, Any]:
    values, alone = times[f"{name}, {_WITH}"], times.get(f"{name}, {_ALONE}")
    return {
        "adds": name,
        **throughputs(values),
        "alone(img/s)": 1 / statistics.median(alone) if alone else None,
        "share(%)": 100 * diagnosis.shares[name] if name in diagnosis.shares else None,
        "num_rounds": len(values),
    }


def advice(results: Results) -> Iterator[str]:
    """Yields a warning about noise, the cold read throughput, and the recommendations, best first."""
    noise = max(row["max(img/s)"] / row["min(img/s)"] for row in results["rows"])
    if noise > _NOISY:
        yield f"rounds of one stage differ by a factor of {noise:.1f}: stop other programs, or give more --seconds"
    if cold := results["cold_reading(img/s)"]:
        yield f"reading from an empty page cache: {statistics.median(cold):,.0f} images/s"
    now = results["diagnosis"]["rate"]
    for recommendation in results["diagnosis"]["remedies"]:
        expected = recommendation["expected"]
        gain = "measure it" if expected is None else f"{expected:,.0f} images/s expected, {expected / now:.1f} times"
        yield f"{recommendation['what']} ({gain})"
