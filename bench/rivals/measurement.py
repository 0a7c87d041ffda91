"""Measures all entries in turn."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from ...engine.console import console
from ...engine.distributed import resolve_device
from ..common.results import Results, make_results
from .command import RivalsOptions
from .entries import BASELINE, SQUASH, STEP, Entry
from .processes import EntryRunner, EntryUnavailable
from .rows import Row, loader_row, step_rows, verdict

_ROUNDS = 3
_STEP = Entry(STEP, "original and engine", "one batch")

Skipped = dict[Entry, str]  # the reason by entry


def measure(options: RivalsOptions) -> Results:
    """Returns the throughput of each entry, and the reasons of those that cannot run on this machine."""
    device = resolve_device(options.device)
    skipped: Skipped = {}
    with tempfile.TemporaryDirectory(prefix="photochrom-") as folder:
        runner = EntryRunner(options, Path(folder))
        rows = _rows(options, runner, skipped)
        facts = {"num_photographs": runner.datasets.num_photographs, "formats": runner.datasets.formats}
    results = make_results(options, device, rows, f"{facts['num_photographs']} photographs; {verdict(rows)}")
    reasons = [asdict(entry) | {"reason": reason} for entry, reason in skipped.items()]
    return results | facts | {"skipped": reasons}


def _rows(options: RivalsOptions, runner: EntryRunner, skipped: Skipped) -> list[Row]:
    checks = _check_all(options, runner, skipped)  # makes the data sets, before the clock starts
    num_entries = len(options.entries) - len(skipped) + 2 * options.measures_step  # the training step has two
    seconds = options.seconds / (_ROUNDS * max(1, num_entries))
    measurements: dict[Entry, list[Row]] = {entry: [] for entry in options.entries if entry not in skipped}
    console.print(f"{len(measurements)} loaders in turn, {_ROUNDS} rounds of {seconds:.1f} s each ...")
    for _ in range(_ROUNDS):
        for entry in (entry for entry in measurements if entry not in skipped):
            with _skip_unavailable(skipped, entry):
                measurements[entry].append(runner.measure(entry, seconds))
                console.print(f"{entry.names[2]}: {measurements[entry][-1]['rate(img/s)']:,.0f} images/s")
    measurements = {entry: values for entry, values in measurements.items() if entry not in skipped}
    baselines = {entry.job: values for entry, values in measurements.items() if entry.loader == BASELINE}
    rows = [
        loader_row(entry, values, baselines.get(entry.job, []), checks.get(entry))
        for entry, values in measurements.items()
    ]
    if options.measures_step:
        seconds *= 2 * _ROUNDS
        console.print(f"the training step, {seconds:.0f} s or three rounds, after a warm-up round ...")
        with _skip_unavailable(skipped, _STEP):
            rows += step_rows(runner.measure_steps(seconds))
    return rows


def _check_all(options: RivalsOptions, runner: EntryRunner, skipped: Skipped) -> dict[Entry, Row]:
    """Makes the data sets, and returns the checks of entries that squash."""
    checks = {}
    for entry in options.entries:
        with _skip_unavailable(skipped, entry):
            runner.datasets.path(entry.reads)
            if entry.job == SQUASH:
                checks[entry] = runner.check(entry)
    return checks


@contextmanager
def _skip_unavailable(skipped: Skipped, entry: Entry) -> Iterator[None]:
    """Adds the entry and the reason to `skipped` if EntryUnavailable is raised."""
    try:
        yield
    except EntryUnavailable as reason:
        skipped[entry] = str(reason)
        console.print(f"skipped: {entry.names[2]}: {reason}")
