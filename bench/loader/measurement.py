"""Measures loaders by their settings: two sweeps, each in rounds in which all settings take turns.

The first sweep varies the decoder and the number of threads. The second varies the prefetched batches and the batch
size at each decoder's best number of threads. Each measurement opens a new loader and starts once its queue is full.
"""

import statistics
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from accelerate import Accelerator

from ...engine.configuration.config import RunConfig
from ...engine.console import console, plural
from ...engine.distributed import make_training_accelerator
from ...engine.loaders import resolve_backend, training_loader
from ...engine.training.loop import endless
from ...pipelines.system import available_cpus, has_dali
from ..common.options import used_settings
from ..common.results import Results, make_results
from ..common.timing import MIN_ROUNDS, Clock, throughputs
from .stage_costs import stage_costs

_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Settings of a loader that change its speed."""

    backend: str
    threads: int
    prefetch_batches: int
    batch_size: int

    def __str__(self) -> str:
        return (
            f"{self.backend}, {plural(self.threads, 'thread')}, {self.prefetch_batches} prefetched, "
            f"batches of {self.batch_size}"
        )


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Seconds per photograph: wall-clock time, and CPU time of all cores."""

    wall: float
    cpu: float


Measurements = dict[Setting, list[Measurement]]


def measure(config: RunConfig, seconds: float) -> Results:
    """Returns the throughput and the cost of each setting, the fastest setting, and the cost of each stage."""
    accelerator = make_training_accelerator(config.train)
    if accelerator.num_processes > 1:
        raise ValueError("bench loader measures one process: start it without a launcher")
    configured = configured_setting(config, accelerator)
    console.print(f"{configured} as configured, and others in turn, for {seconds:g} s ...")
    measurements: Measurements = {}
    _measure_once(config, accelerator, configured, 0)  # warm-up: compiles, and fills the page cache
    _sweep(config, accelerator, by_threads(configured, available_cpus()), measurements, 0.4 * seconds)
    # The best settings so far are measured again, so that all are compared at the same time.
    again = dict.fromkeys([configured, *by_queue(configured, measurements)])
    _sweep(config, accelerator, again, measurements, 0.45 * seconds)
    rows = [_row(setting, values, measurements[configured]) for setting, values in measurements.items()]
    best = fastest(measurements, configured.batch_size)
    verdict = _verdict(best, configured, measurements)
    return make_results(config, accelerator.device, rows, verdict) | {
        "settings": used_settings(config, seconds=seconds),
        "configured": asdict(configured),
        "fastest": asdict(best),
        "is_beyond_noise": _is_faster(best, configured, measurements),
        "stages": stage_costs(config, accelerator.device, 0.15 * seconds),
    }


def configured_setting(config: RunConfig, accelerator: Accelerator) -> Setting:
    """Returns the settings of the run's loader."""
    loader = training_loader(config, accelerator)
    loader.close()
    return Setting(
        backend=resolve_backend(config.loader.backend, loader.data, accelerator.device),
        threads=loader.threads,
        prefetch_batches=loader.prefetch_batches,
        batch_size=loader.batch_size,
    )


def by_threads(configured: Setting, cores: int) -> list[Setting]:
    """Returns the configured setting, and each decoder on 1, 2, 4 ... and all cores."""
    threads = sorted({2**n for n in range(cores.bit_length()) if 2**n <= cores} | {cores})
    backends = ["dali", "torch"] if has_dali() else ["torch"]
    swept = [replace(configured, backend=backend, threads=number) for backend in backends for number in threads]
    return list(dict.fromkeys([configured, *swept]))


def by_queue(configured: Setting, measurements: Measurements) -> Iterator[Setting]:
    """Yields, at each backend's best number of threads, 1, 2 and 4 prefetched batches, and half and double batches."""
    for backend in dict.fromkeys(setting.backend for setting in measurements):
        of_backend = {setting: values for setting, values in measurements.items() if setting.backend == backend}
        best = fastest(of_backend, configured.batch_size)
        yield from (replace(best, prefetch_batches=number) for number in (1, 2, 4))
        sizes = (best.batch_size // 2, 2 * best.batch_size)
        yield from (replace(best, batch_size=number) for number in sizes if number)


def fastest(measurements: Measurements, batch_size: int) -> Setting:
    """Returns the setting with the best median among those with this batch size."""
    of_size = [setting for setting in measurements if setting.batch_size == batch_size]
    return min(of_size, key=lambda setting: _median(measurements[setting]))


def _median(measurements: Sequence[Measurement]) -> float:
    return statistics.median(measurement.wall for measurement in measurements)


def _sweep(
    config: RunConfig,
    accelerator: Accelerator,
    settings: Collection[Setting],
    measurements: Measurements,
    seconds: float,
) -> None:
    """Adds measurements of all settings, round after round, until the time is over; at least three rounds."""
    deadline = time.perf_counter() + seconds
    for number in range(_ROUNDS):
        if number >= MIN_ROUNDS and time.perf_counter() > deadline:
            break
        for setting in settings:
            measurement = _measure_once(config, accelerator, setting, seconds / (_ROUNDS * len(settings)))
            measurements.setdefault(setting, []).append(measurement)


def _measure_once(config: RunConfig, accelerator: Accelerator, setting: Setting, seconds: float) -> Measurement:
    """Measures a new loader; `seconds` include opening it and filling its queue, which are not timed."""
    deadline = time.perf_counter() + seconds
    settings = asdict(setting)
    train = replace(config.train, batch_size=settings.pop("batch_size"), grad_accum_steps=1)
    loader = training_loader(replace(config, train=train, loader=replace(config.loader, **settings)), accelerator)
    batches, number = endless(loader), 0
    try:
        for _ in range(setting.prefetch_batches + 2):  # the queue, filled before the clock starts, and one more
            next(batches)
        clock, cpu = Clock(accelerator.device), time.process_time()
        while number < 3 or time.perf_counter() < deadline:
            next(batches)
            number += 1
        wall, cpu = clock.lap(), time.process_time() - cpu
    finally:
        loader.close()
    return Measurement(wall=wall / (number * setting.batch_size), cpu=cpu / (number * setting.batch_size))


def _row(setting: Setting, measurements: Sequence[Measurement], configured: Sequence[Measurement]) -> dict[str, Any]:
    walls = [measurement.wall for measurement in measurements]
    return {
        **asdict(setting),
        **throughputs(walls),
        "ratio": _median(configured) / _median(measurements),
        "cpu(ms/img)": 1e3 * statistics.median(measurement.cpu for measurement in measurements),
        "num_rounds": len(measurements),
    }


def _verdict(best: Setting, configured: Setting, measurements: Measurements) -> str:
    throughput = 1 / _median(measurements[best])
    ratio = throughput * _median(measurements[configured])
    if best == configured:
        return f"fastest: the configured settings ({best}), {throughput:,.0f} images/s"
    certainty = "in every round" if _is_faster(best, configured, measurements) else "within the noise"
    return f"fastest: {best}, {throughput:,.0f} images/s, {ratio:.2f} times the configured settings ({certainty})"


def _is_faster(best: Setting, configured: Setting, measurements: Measurements) -> bool:
    """True if the slowest round of `best` is faster than the fastest round of `configured`."""
    slowest = max(measurement.wall for measurement in measurements[best])
    return slowest < min(measurement.wall for measurement in measurements[configured])
