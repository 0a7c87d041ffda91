"""Measures all entries in turn, each in a process of its own."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...engine.console import console
from ...engine.distributed import resolve_device
from ..common.results import Results, make_results
from ..common.timing import MIN_ROUNDS, throughputs
from .command import RivalsOptions
from .datasets import dataset
from .entries import BASELINE, Entry
from .task import Task

# Mean absolute differences of L and ab from scikit-image, in Lab units, that count as the same. Filters differ by 0.4
# to 0.8 and 0.3 to 0.5 (area, linear, bicubic), JPEGs of squashed photographs by up to 0.6 and 1.4.
TOLERANCE_L, TOLERANCE_AB = 1.0, 1.5

Row = dict[str, Any]


def measure(options: RivalsOptions) -> Results:
    """Returns the throughput of each entry, and the reasons of those that cannot run on this machine."""
    skipped: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="photochrom-") as folder:
        rounds = _measure_all(options, Path(folder), skipped)
        num_photographs = len(list((Path(folder) / "files").iterdir()))
    rows = make_rows(rounds)
    verdict = f"{num_photographs} photographs; {verdict_of(rows)}"
    return make_results(options, resolve_device(options.device), rows, verdict) | {"skipped": skipped}


def _measure_all(options: RivalsOptions, folder: Path, skipped: dict[str, str]) -> dict[Entry, list[Row]]:
    """Returns what each round has measured, by entry; adds entries that cannot run, and why, to `skipped`."""
    rounds: dict[Entry, list[Row]] = {}
    dataset("reference", folder, options)
    for entry in options.entries:  # makes the data sets, before the clock starts
        with _skipping(entry, rounds, skipped):
            dataset(entry.reads, folder, options)
            rounds[entry] = []
    seconds = options.seconds / (MIN_ROUNDS * max(1, len(rounds)))
    console.print(f"{len(rounds)} loaders in turn, {MIN_ROUNDS} rounds of {seconds:.1f} s each ...")
    for _ in range(MIN_ROUNDS):
        for entry in list(rounds):
            with _skipping(entry, rounds, skipped):
                rounds[entry].append(row := _run(entry, folder, options, seconds))
                console.print(f"{entry}: {1 / row['wall(s/img)']:,.0f} images/s")
    return rounds


@contextmanager
def _skipping(entry: Entry, rounds: dict[Entry, list[Row]], skipped: dict[str, str]) -> Iterator[None]:
    """Moves the entry from `rounds` to `skipped` if its library is missing or its process fails."""
    try:
        yield
    except (ImportError, subprocess.CalledProcessError) as error:
        reason = str(getattr(error, "stderr", error)).strip().splitlines()[-1]
        rounds.pop(entry, None)
        skipped[str(entry)] = reason
        console.print(f"skipped: {entry}: {reason}")


def _run(entry: Entry, folder: Path, options: RivalsOptions, seconds: float) -> Row:
    """Returns what `throughput.measure` returns in a new process."""
    task = Task(
        loader=entry.loader,
        data=str(folder / entry.reads),
        crop=entry.crop,
        size=options.size,
        batch_size=options.batch_size,
        threads=options.num_threads,
        device=resolve_device(options.device).type,
        seconds=seconds,
        reference=str(folder / "reference"),
    )
    command = [sys.executable, "-P", "-m", f"{__package__}.worker", json.dumps(asdict(task))]
    environment = os.environ | {"TMPDIR": str(folder)}  # workers of DataLoader make folders that a kill leaves
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def make_rows(rounds: dict[Entry, list[Row]]) -> list[Row]:
    """Returns each entry's throughput, relative to the original's in the same rounds, and medians of its rounds."""
    baselines = {entry.is_squashed: rows for entry, rows in rounds.items() if entry.loader == BASELINE}
    return [_row(entry, rows, baselines.get(entry.is_squashed, [])) for entry, rows in rounds.items()]


def _row(entry: Entry, rounds: list[Row], baseline: list[Row]) -> Row:
    medians = {key: statistics.median(round_[key] for round_ in rounds) for key in rounds[0]}
    del medians["wall(s/img)"]
    ratios = [base["wall(s/img)"] / round_["wall(s/img)"] for base, round_ in zip(baseline, rounds, strict=False)]
    row = {
        "entry": str(entry),
        "kind": entry.kind,
        **throughputs([round_["wall(s/img)"] for round_ in rounds]),
        "ratio": statistics.median(ratios) if ratios else None,
        **medians,
    }
    if entry.is_squashed:
        row["is_same"] = row["error_L"] <= TOLERANCE_L and row["error_ab"] <= TOLERANCE_AB
    return row


def verdict_of(rows: list[Row]) -> str:
    """Returns the fastest entry of each kind, and the entries whose results differ."""
    fastest = {row["kind"]: row for row in sorted(rows, key=lambda row: float(row["median(img/s)"]))}
    parts = [f"{kind}: {row['entry']} {row['median(img/s)']:,.0f} images/s" for kind, row in sorted(fastest.items())]
    different = [row["entry"] for row in rows if row.get("is_same") is False]
    if different:
        parts.append("NOT THE SAME RESULT: " + ", ".join(different))
    return "fastest " + "; ".join(parts) if parts else "no entry could run"


def notes(results: Results) -> Iterator[str]:
    """Yields the entries that could not run, and why."""
    for name, reason in results["skipped"].items():
        yield f"skipped: {name}: {reason}"
