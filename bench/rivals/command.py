"""The verb: all entries in turn."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from ...engine.console import console
from ...engine.distributed import resolve_device
from ..common.results import Found, figures, run
from .config import RivalsConfig
from .datasets import work_folder
from .entries import BASELINE, SQUASH, STEP, Entry
from .processes import EntryRunner, Missing
from .rows import Row, loader_row, step_rows, verdict
from .tables import draw, notes, show

_STEPS = Entry(STEP, "original and engine", "one batch")


def main(argv: list[str], prog: str) -> int:
    return run(argv, RivalsConfig, measure, prog=prog, show=show, notes=notes, draw=draw)


def measure(config: RivalsConfig) -> Found:
    """What each entry did, and why others cannot run here."""
    device = resolve_device(config.device)
    with work_folder(config) as folder:
        rows, skipped, facts = _measured(config, EntryRunner(config, folder))
    found = figures(config, device, rows, f"{facts['num_photographs']} photographs; {verdict(rows)}")
    return found | facts | {"skipped": [asdict(each) | {"reason": reason} for each, reason in skipped.items()]}


def _measured(config: RivalsConfig, arena: EntryRunner) -> tuple[list[Row], dict[Entry, str], Row]:
    skipped: dict[Entry, str] = {}
    checks = _prepared(config, arena, skipped)  # before the clock starts
    num_contestants = len(config.entries) - len(skipped) + 2 * config.steps  # the training step has two
    seconds = config.seconds / (config.rounds * max(1, num_contestants))
    turns: dict[Entry, list[Row]] = {each: [] for each in config.entries if each not in skipped}
    console.print(f"{len(turns)} loaders in turn, {config.rounds} rounds of {seconds:.1f} s each ...")
    for _ in range(config.rounds):
        for each in (each for each in turns if each not in skipped):
            with _noting(skipped, each):
                turns[each].append(arena.measure(each, seconds))
                console.print(f"{each.names[2]}: {turns[each][-1]['rate(img/s)']:,.0f} images/s")
    ran = {each: found for each, found in turns.items() if each not in skipped}
    baselines = {each.job: found for each, found in ran.items() if each.loader == BASELINE}
    rows = [loader_row(each, found, baselines.get(each.job, []), checks.get(each)) for each, found in ran.items()]
    if config.steps:
        console.print(
            f"the training step, {2 * config.rounds * seconds:.0f} s or three rounds, after one to warm up ..."
        )
        with _noting(skipped, _STEPS):
            rows += step_rows(arena.measure_steps(2 * config.rounds * seconds))
    return rows, skipped, {"num_photographs": arena.work.num_photographs, "formats": arena.work.formats()}


def _prepared(config: RivalsConfig, arena: EntryRunner, skipped: dict[Entry, str]) -> dict[Entry, Row]:
    """Makes what entries read, and looks at what they make of it."""
    checks = {}
    for each in config.entries:
        with _noting(skipped, each):
            arena.work.path(each.reads)
            if each.job == SQUASH:
                checks[each] = arena.check(each)
    return checks


@contextmanager
def _noting(skipped: dict[Entry, str], entry: Entry) -> Iterator[None]:
    """Notes why the entry cannot go on, where what follows raises Missing."""
    try:
        yield
    except Missing as reason:
        skipped[entry] = str(reason)
        console.print(f"skipped: {entry.names[2]}: {reason}")
