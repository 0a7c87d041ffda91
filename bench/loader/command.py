"""photochrom bench loader --config RECIPE --data SHARDS: how fast loaders are, by their settings, and at what cost

Two sweeps, each in rounds in which all settings take their turn: both decoders on ever more threads, then, with each
one's best number, other batches ahead and other batches. A loader is opened anew for each turn, works alone, and is
timed when its queue is as full as it stays.
"""

import statistics
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator
from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.table import Table

from ...engine.configuration.config import RunConfig
from ...engine.console import console, plural
from ...engine.distributed import make_trainer
from ...engine.loaders import resolve_backend, training_loader
from ...engine.training.loop import endless
from ...pipelines.files import atomic_write
from ...pipelines.output_dir import check_output_file
from ...pipelines.system import available_cpus, has_dali
from ..common.options import RunOptions, parse_run, used_settings
from ..common.results import Found, figures, publish
from ..common.timing import MIN_ROUNDS, Clock
from .stage_costs import stage_costs

_ROUNDS = 5
_HEADER = "# Written by photochrom bench loader: give it after your recipe, --config RECIPE --config THIS\n"


@dataclass(frozen=True, kw_only=True)
class LoaderOptions(RunOptions):
    """Measures images per second and CPU time of loaders by backend, threads, batches ahead and batch size, and what a
    photograph costs stage by stage.

    All else is as in 'photochrom train': --config RECIPE, then settings by their dotted names.

    Args:
        data: The shard set.
        seconds: How long to measure; a turn takes three batches at least.
        apply: File to write the fastest loader settings to, a recipe to be given after the run's own: those that are
            configured, where nothing is faster beyond the noise. The batch, which training depends on, is not among
            them.
        out: File for the figures as JSON; a picture of them goes beside it.
    """

    data: str
    seconds: float = 90.0
    apply: Path | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.apply and self.apply.exists() and not self.apply.read_text().startswith(_HEADER):
            raise ValueError(f"--apply {self.apply} is a file of yours, which would be lost: name a new one")
        if self.apply:
            check_output_file(self.apply, name="--apply")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A loader's settings that change its speed, and not what it loads (but for the size of its batches)."""

    backend: str
    threads: int
    prefetch_batches: int
    batch_size: int

    def __str__(self) -> str:
        return (
            f"{self.backend}, {plural(self.threads, 'thread')}, {self.prefetch_batches} ahead, "
            f"batches of {self.batch_size}"
        )


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What a photograph took of the clock, and of all cores, in seconds."""

    wall: float
    cpu: float


Turns = dict[Setting, list[Turn]]


def main(argv: list[str], prog: str) -> int:
    options, config = parse_run(LoaderOptions, argv, prog)
    found = measure(config, options.seconds)
    publish(found, options.out, show=show, draw=draw)
    if options.apply:
        apply(found, options.apply)
        print(f"written to {options.apply}: give it after your recipe, --config RECIPE --config {options.apply}")
    return 0


def measure(config: RunConfig, seconds: float) -> Found:
    """The rate and the cost of each setting, the fastest, and the cost of each stage."""
    accelerator = make_trainer(config.train)
    if accelerator.num_processes > 1:
        raise ValueError("bench loader looks at one process: start it without a launcher")
    configured = as_configured(config, accelerator)
    console.print(f"{configured} as configured, and others in turn, for {seconds:g} s ...")
    turns: Turns = {}
    _turn(config, accelerator, configured, 0)  # compiles, and brings the first photographs into memory
    _measure(config, accelerator, by_threads(configured, available_cpus()), turns, 0.4 * seconds)
    # What was best is among them again: it is compared in the same minutes.
    _measure(config, accelerator, dict.fromkeys([configured, *by_queue(configured, turns)]), turns, 0.45 * seconds)
    rows = [_row(setting, taken, turns[configured]) for setting, taken in turns.items()]
    best = fastest(turns, configured.batch_size)
    found = figures(config, accelerator.device, rows, _verdict(best, configured, turns))
    return found | {
        "settings": used_settings(config, seconds=seconds),
        "configured": asdict(configured),
        "fastest": asdict(best),
        "is_beyond_noise": _is_faster(best, configured, turns),
        "stages": stage_costs(config, accelerator.device, 0.15 * seconds),
    }


def as_configured(config: RunConfig, accelerator: Accelerator) -> Setting:
    """What the run would take."""
    loader = training_loader(config, accelerator)
    loader.close()
    return Setting(
        backend=resolve_backend(config.loader.backend, loader.data, accelerator.device),
        threads=loader.threads,
        prefetch_batches=loader.prefetch_batches,
        batch_size=loader.batch_size,
    )


def by_threads(configured: Setting, cores: int) -> list[Setting]:
    """The configured setting, and each decoder on 1, 2, 4 ... and all cores."""
    threads = sorted({2**n for n in range(cores.bit_length()) if 2**n <= cores} | {cores})
    backends = ["dali", "torch"] if has_dali() else ["torch"]
    swept = [replace(configured, backend=backend, threads=number) for backend in backends for number in threads]
    return list(dict.fromkeys([configured, *swept]))


def by_queue(configured: Setting, turns: Turns) -> Iterator[Setting]:
    """Around the best number of threads of each backend: 1, 2 and 4 batches ahead, half and double batches."""
    for backend in dict.fromkeys(setting.backend for setting in turns):
        of_backend = {setting: taken for setting, taken in turns.items() if setting.backend == backend}
        best = fastest(of_backend, configured.batch_size)
        yield from (replace(best, prefetch_batches=number) for number in (1, 2, 4))
        yield from (
            replace(best, batch_size=number) for number in (best.batch_size // 2, 2 * best.batch_size) if number
        )


def fastest(turns: Turns, batch_size: int) -> Setting:
    """The setting with the best median, among those whose batches are of the size that is trained with."""
    of_size = [setting for setting in turns if setting.batch_size == batch_size]
    return min(of_size, key=lambda setting: statistics.median(turn.wall for turn in turns[setting]))


def _measure(
    config: RunConfig, accelerator: Accelerator, settings: Collection[Setting], turns: Turns, seconds: float
) -> None:
    """Adds to each setting's turns, all of them in each round, until the time is over; three rounds at least."""
    deadline = time.perf_counter() + seconds
    for number in range(_ROUNDS):
        if number >= MIN_ROUNDS and time.perf_counter() > deadline:
            break
        for setting in settings:
            turn = _turn(config, accelerator, setting, seconds / (_ROUNDS * len(settings)))
            turns.setdefault(setting, []).append(turn)


def _turn(config: RunConfig, accelerator: Accelerator, setting: Setting, seconds: float) -> Turn:
    """Opening a loader and filling its queue counts against `seconds`, but is not timed."""
    deadline = time.perf_counter() + seconds
    wanted = asdict(setting)
    train = replace(config.train, batch_size=wanted.pop("batch_size"), grad_accum_steps=1)
    loader = training_loader(replace(config, train=train, loader=replace(config.loader, **wanted)), accelerator)
    batches, number = endless(loader), 0
    try:
        for _ in range(setting.prefetch_batches + 2):  # those that were prepared while nobody looked, and one more
            next(batches)
        clock, cpu = Clock(accelerator.device), time.process_time()
        while number < 3 or time.perf_counter() < deadline:
            next(batches)
            number += 1
        wall, cpu = clock.lap(), time.process_time() - cpu
    finally:
        loader.close()
    return Turn(wall=wall / (number * setting.batch_size), cpu=cpu / (number * setting.batch_size))


def _row(setting: Setting, turns: Sequence[Turn], configured: Sequence[Turn]) -> dict[str, Any]:
    walls = [turn.wall for turn in turns]
    median = statistics.median(walls)
    return {
        **asdict(setting),
        "median(img/s)": 1 / median,
        "min(img/s)": 1 / max(walls),
        "max(img/s)": 1 / min(walls),
        "ratio": statistics.median(turn.wall for turn in configured) / median,
        "cpu(ms/img)": 1e3 * statistics.median(turn.cpu for turn in turns),
        "num_rounds": len(turns),
    }


def _verdict(best: Setting, configured: Setting, turns: Turns) -> str:
    ours, theirs = ([turn.wall for turn in turns[setting]] for setting in (best, configured))
    rate, ratio = 1 / statistics.median(ours), statistics.median(theirs) / statistics.median(ours)
    if best == configured:
        return f"nothing is faster than what is configured: {best}, {rate:,.0f} images/s"
    certainty = "in every round" if _is_faster(best, configured, turns) else "which is within the noise"
    return f"fastest is {best}: {rate:,.0f} images/s, {ratio:.2f} times as configured, {certainty}"


def _is_faster(best: Setting, configured: Setting, turns: Turns) -> bool:
    """Whether even its slowest round is faster than the other's fastest."""
    return max(turn.wall for turn in turns[best]) < min(turn.wall for turn in turns[configured])


def apply(found: Found, path: Path) -> None:
    """Writes the fastest settings as a recipe, or those that are configured where the difference is noise."""
    chosen = found["fastest" if found["is_beyond_noise"] else "configured"]
    settings = {name: value for name, value in chosen.items() if name != "batch_size"}
    with atomic_write(path) as file:
        file.write_text(f"{_HEADER}# {found['verdict']}\n" + yaml.safe_dump({"loader": settings}, sort_keys=False))


def show(found: Found) -> RenderableType:
    """The settings, one a line, then the stages."""
    rates = ("images/s", "slowest", "fastest", "ratio", "CPU ms/image")
    settings = Table("loader", "threads", "ahead", "batch", *rates, box=None, header_style="bold")
    for row in found["rows"]:
        name, *numbers = (str(row[key]) for key in ("backend", "threads", "prefetch_batches", "batch_size"))
        speeds = (f"{row[f'{which}(img/s)']:,.0f}" for which in ("median", "min", "max"))
        settings.add_row(name, *numbers, *speeds, f"{row['ratio']:.2f}", f"{row['cpu(ms/img)']:.2f}")
    stages = Table("a stage alone, one thread", "us/image", "smallest", "largest", box=None, header_style="bold")
    for row in found["stages"]:
        stages.add_row(row["stage"], *(f"{row[f'{which}(us/img)']:,.0f}" for which in ("median", "min", "max")))
    return Group(settings, "", stages)


def draw(found: Found, path: Path) -> None:
    """Images per second by threads, with all rounds' spread; and a photograph's time by stages."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    ahead, size = (found["configured"][name] for name in ("prefetch_batches", "batch_size"))
    swept = [row for row in found["rows"] if (row["prefetch_batches"], row["batch_size"]) == (ahead, size)]
    for backend in dict.fromkeys(row["backend"] for row in swept):
        rows = sorted((row for row in swept if row["backend"] == backend), key=lambda row: row["threads"])
        rates = [row["median(img/s)"] for row in rows]
        spread = [[abs(row[f"{which}(img/s)"] - row["median(img/s)"]) for row in rows] for which in ("min", "max")]
        left.errorbar([row["threads"] for row in rows], rates, yerr=spread, marker="o", capsize=3, label=backend)
    left.set(xlabel="threads", ylabel="images/s", title=f"{ahead} batches ahead, batches of {size}")
    left.set_xticks(sorted({row["threads"] for row in swept}))
    left.set_ylim(bottom=0)
    left.legend(frameon=False)
    names = [row["stage"] for row in found["stages"]]
    right.barh(names, [row["median(us/img)"] for row in found["stages"]])
    right.invert_yaxis()
    right.set(xlabel="microseconds per photograph", title="each stage alone, one thread")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
