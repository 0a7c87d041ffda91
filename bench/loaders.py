"""Images per second of the loaders people use today, and of ours: python -m photochrom.bench.loaders PHOTOGRAPHS

All make L and ab, as float32, of the same photographs: those that pass the gate and are no smaller than what is made of
them; rivals get their bytes as a folder of files. Round after round, each runs in a process of its own (rivals.py), on
the same cores. Two jobs:

- squash: the whole photograph, its aspect ratio lost
- random_resized: a quarter to all of its area from anywhere in it, mirrored or not

Beside them stand sets that are squashed, or that `pack` has reduced so that a random square need not be resized: less
work for the same batches. FFCV encodes its photographs anew, at its default quality, and cannot squash: it cuts the
largest square, of which there is less to resize.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from ..engine.config import Device
from ..engine.console import console
from ..engine.launch import resolve_device
from ..engine.parser import parse_options
from ..losses.quantization import ab_histogram
from ..pipelines import PackConfig, ShardSet, pack
from ..pipelines.reading import LocalReader
from ..pipelines.shards import MANIFEST
from ..pipelines.threads import own_cores
from .publishing import figures

Row = dict[str, Any]


@dataclass(frozen=True)
class Contestant:
    """A function of rivals.py or a loader of ours, at one job: what it reads, how it cuts if not as the job says."""

    job: str
    loader: str
    reads: str
    crop: str = ""

    @property
    def names(self) -> tuple[str, str, str]:
        """What --only may call it."""
        return self.loader, f"{self.loader}:{self.reads}", f"{self.loader}:{self.reads}:{self.job}"


CONTESTANTS = (
    Contestant("squash", "original", "files"),
    Contestant("squash", "dali_kornia", "files"),
    Contestant("squash", "ffcv_jpg", "beton"),
    Contestant("squash", "DaliLoader", "originals"),
    Contestant("squash", "DaliLoader", "squashed"),
    Contestant("squash", "DaliLoader", "lab_squashed"),
    Contestant("squash", "TorchLoader", "originals"),
    Contestant("squash", "TorchLoader", "squashed"),
    Contestant("squash", "TorchLoader", "lab_squashed"),
    Contestant("squash", "CachedLoader", "originals"),
    Contestant("squash", "CachedLoader", "squashed"),
    Contestant("random_resized", "original", "files"),
    Contestant("random_resized", "dali_kornia", "files"),
    Contestant("random_resized", "ffcv_jpg", "beton"),
    Contestant("random_resized", "DaliLoader", "originals"),
    Contestant("random_resized", "DaliLoader", "reduced", crop="random"),
    Contestant("random_resized", "DaliLoader", "lab_reduced", crop="random"),
    Contestant("random_resized", "TorchLoader", "originals"),
    Contestant("random_resized", "TorchLoader", "reduced", crop="random"),
    Contestant("random_resized", "TorchLoader", "lab_reduced", crop="random"),
    Contestant("random_resized", "CachedLoader", "originals"),
    Contestant("random_resized", "CachedLoader", "reduced", crop="random"),
    Contestant("nothing", "SyntheticLoader", "originals", crop="squash"),
)
_BASELINE, _RATE = "original", "rate(images/s)"
_ELSEWHERE = ("ffcv_jpg", "write_beton")  # what --python is for

# The shard sets: what is packed, and how. Reduced ones have a short side of 9/8 of the size, 288 for 256.
_SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "originals": ("files", {"short_side": "none"}),
    "reduced": ("files", {}),
    "squashed": ("squares", {}),
    "lab_reduced": ("files", {"store": "lab"}),
    "lab_squashed": ("squares", {"store": "lab"}),
}

_WIDTH = 140  # also where no terminal is
_COLUMNS = {
    "job": "{job}",
    "loader": "{loader}:{reads}",
    "images/s": "{median(images/s):.0f}",
    "from - to": "{min(images/s):.0f} - {max(images/s):.0f}",
    "n": "{num_rounds}",
    "x original": "{ratio}",
    "CPU ms/image": "{cpu(ms/image):.2f}",
    "others' cores": "{others(cores):.2f}",
    "first batch": "{first_batch(s):.1f} s",
    "L": "{mean_L:.2f}",
    "|ab|": "{mean_abs_ab:.2f}",
}


class Missing(Exception):
    """A contestant cannot run here; says why."""


@dataclass(frozen=True, kw_only=True)
class LoadersConfig:
    """Compares loaders of photographs: images per second, what they cost, and the time to the first batch.

    Args:
        photographs: Folder or archive of photographs, as pack takes it.
        size: Side of what is made of them in pixels.
        batch_size: Photographs in a batch.
        threads: Cores for each, and the threads or workers that it is told to use; by default all of this process.
        seconds: How long to measure each in each round, after a pass over the photographs.
        rounds: How often all take their turn.
        only: Contestants, separated by commas; each can be narrowed, as in DaliLoader:originals:squash. By default all.
        device: Where batches are to be, auto, cuda or cpu; those of others are copied there.
        python: Interpreter of another environment, for rivals that need other packages (FFCV).
        work: Folder for what they read, which stays there and serves again; by default a temporary one.
        out: File for the figures as JSON.
    """

    photographs: Path
    size: int = 256
    batch_size: int = 32
    threads: int | None = None
    seconds: float = 6.0
    rounds: int = 3
    only: str = ""
    device: Device = "cpu"
    python: Path | None = None
    work: Path | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        for name in ("size", "batch_size", "threads", "rounds"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} {value} is not a positive number")
        known = {name for each in CONTESTANTS for name in each.names}
        if unknown := sorted(self._only - known):
            names = dict.fromkeys(name for each in CONTESTANTS for name in each.names[:2])
            raise ValueError(f"no contestant is called {unknown[0]}; known are {', '.join(names)}")

    @property
    def contestants(self) -> list[Contestant]:
        """Those that are to run."""
        return [each for each in CONTESTANTS if not self.only or not self._only.isdisjoint(each.names)]

    @property
    def _only(self) -> set[str]:
        return set(filter(None, self.only.split(",")))


def main(argv: list[str]) -> int:
    prog = "python -m photochrom.bench.loaders"
    config = parse_options(LoadersConfig, argv, prog=prog, positional=("photographs",))
    try:
        found = measure(config)
    except ValueError as error:
        console.print(str(error))
        return 1
    if config.out:
        config.out.write_text(json.dumps(found, indent=1) + "\n")
    _show(found)
    return 0


def measure(config: LoadersConfig) -> dict[str, Any]:
    """What each contestant did, and why others cannot run here."""
    results: dict[Contestant, list[Row]] = {each: [] for each in config.contestants}
    skipped: dict[Contestant, str] = {}
    with _work_folder(config) as folder:
        arena = _Arena(config, folder)
        for number in range(config.rounds + 1):  # in round 0, what they read is made
            for each in (each for each in results if each not in skipped):
                try:
                    path = arena.path(each.reads)
                    if number:
                        results[each].append(arena.run(each, path))
                except Missing as reason:
                    skipped[each] = str(reason)
        num_photographs = arena.num_photographs
    ran = {each: turns for each, turns in results.items() if each not in skipped}
    baselines = {
        each.job: statistics.median(turn[_RATE] for turn in turns)
        for each, turns in ran.items()
        if each.loader == _BASELINE
    }
    rows = [_row(each, turns, baselines.get(each.job)) for each, turns in ran.items()]
    left_out = [asdict(each) | {"reason": reason} for each, reason in skipped.items()]
    found = figures(config, resolve_device(config.device), rows, f"{num_photographs} photographs; {_verdict(rows)}")
    return found | {"num_photographs": num_photographs, "skipped": left_out}


class _Arena:
    """Makes what contestants read, where it is not there yet, and runs them."""

    def __init__(self, config: LoadersConfig, folder: Path) -> None:
        self._config, self._folder = config, folder
        self._threads = config.threads or own_cores()
        (folder / "import").mkdir(exist_ok=True)
        package = folder / "import" / "photochrom"  # for interpreters that have our libraries, but not us
        package.unlink(missing_ok=True)
        package.symlink_to(Path(__file__).resolve().parents[1])

    def path(self, reads: str) -> Path:
        """Where it lies. Raises Missing when it cannot be made here."""
        out = self._folder / reads
        if reads in _SETS:
            source, settings = _SETS[reads]
            settings = {"short_side": self._config.size * 9 // 8, "keep_grey": True} | settings
            self._pack(self.path(source), out, **settings)
        elif not out.exists():
            part = self._folder / f"{reads}.part"
            shutil.rmtree(part, ignore_errors=True)
            make = {"files": self._write_files, "squares": self._write_squares, "beton": self._write_beton}
            make[reads](part)
            part.rename(out)
        return out

    @property
    def num_photographs(self) -> int:
        """How many all of them read."""
        return len(list(self.path("files").iterdir()))

    def run(self, contestant: Contestant, path: Path) -> Row:
        """One turn. Raises Missing when it cannot be."""
        config = self._config
        result = self._call(
            contestant.loader,
            data=str(path),
            crop=contestant.crop or contestant.job,
            size=config.size,
            batch_size=config.batch_size,
            threads=self._threads,
            warm_up=self.num_photographs // config.batch_size,
            seconds=config.seconds,
            device=resolve_device(config.device).type,
            started=time.monotonic(),
        )
        console.print(f"{contestant.names[2]}: {result[_RATE]:.0f} images/s")
        return result

    def _write_files(self, out: Path) -> None:
        config, gate = self._config, self._folder / "gate"
        self._pack(config.photographs, gate, short_side="none")
        shards = ShardSet.open(gate)
        out.mkdir()
        chosen = [i for i, sides in enumerate(shards.sizes.tolist()) if min(sides) >= config.size]
        for i, jpeg in zip(chosen, LocalReader(shards).read(np.array(chosen, dtype=np.int64)), strict=True):
            (out / f"{i:06}.jpg").write_bytes(jpeg.tobytes())
        if len(chosen) < config.batch_size:
            raise ValueError(
                f"{len(chosen)} of {shards.num_samples} photographs in {config.photographs} are no smaller than "
                f"{config.size} pixels, too few for a batch of {config.batch_size}: lower --batch-size or --size"
            )
        shutil.rmtree(gate)

    def _write_squares(self, out: Path) -> None:
        side = self._config.size
        out.mkdir()
        for path in self.path("files").iterdir():
            squashed = Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
            squashed.save(out / f"{path.stem}.png")

    def _write_beton(self, out: Path) -> None:
        self._call("write_beton", folder=str(self.path("files")), out=str(out), threads=self._threads)

    def _pack(self, source: Path, out: Path, **settings: Any) -> None:
        if not (out / MANIFEST).exists():
            pack(PackConfig(source=source, out=out, **settings), ab_histogram=ab_histogram)

    def _call(self, name: str, **arguments: Any) -> Row:
        """What the process of rivals.py found."""
        elsewhere = name in _ELSEWHERE
        python = (elsewhere and self._config.python) or sys.executable
        command = [str(python), "-m", f"{__package__}.rivals", name, json.dumps(arguments)]
        paths = [str(self._folder / "import"), os.environ.get("PYTHONPATH", "")]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        if done.returncode:
            raise Missing(f"it failed: {(done.stderr.strip().splitlines() or ['without a word'])[-1]}")
        found: Row = json.loads(done.stdout.splitlines()[-1])
        if "skipped" in found:
            raise Missing(found["skipped"] + (" (--python names an environment that has it)" if elsewhere else ""))
        return found


@contextmanager
def _work_folder(config: LoadersConfig) -> Iterator[Path]:
    """The folder for what contestants read; one that was made of other photographs raises ValueError."""
    if config.work is None:
        with tempfile.TemporaryDirectory(prefix="photochrom-") as folder:
            yield Path(folder)
        return
    config.work.mkdir(parents=True, exist_ok=True)
    label = config.work / "made-of.json"
    made_of = {"photographs": str(config.photographs.resolve()), "size": config.size}
    if label.exists() and (found := json.loads(label.read_text())) != made_of:
        raise ValueError(f"{config.work} was made of {found}, not of {made_of}: name another folder")
    label.write_text(json.dumps(made_of))
    yield config.work


def _row(contestant: Contestant, turns: list[Row], baseline: float | None) -> Row:
    rates = [turn.pop(_RATE) for turn in turns]
    versions = [turn.pop("versions") for turn in turns]
    rate = statistics.median(rates)
    return {
        "job": contestant.job,
        "loader": contestant.loader,
        "reads": contestant.reads,
        "crop": contestant.crop or contestant.job,
        "median(images/s)": rate,
        "min(images/s)": min(rates),
        "max(images/s)": max(rates),
        "num_rounds": len(rates),
        "ratio": rate / baseline if baseline else None,
        **{key: statistics.median(turn[key] for turn in turns) for key in turns[0]},
        "versions": versions[0],
    }


def _verdict(rows: list[Row]) -> str:
    """The fastest of others, of ours from the photographs as they are, and of ours from sets made for the job."""
    fastest: dict[tuple[str, str], Row] = {}
    for row in sorted(rows, key=lambda row: row["median(images/s)"]):
        kind = "others" if row["reads"] not in _SETS else "ours" if row["reads"] == "originals" else "ours, prepared"
        fastest[row["job"], kind] = row
    sentences = [
        f"{job} by {kind}: {row['loader']}:{row['reads']} {row['median(images/s)']:.0f} images/s"
        for (job, kind), row in sorted(fastest.items())
        if job != "nothing"
    ]
    return f"fastest at {'; '.join(sentences)}" if sentences else "none of them could run"


def _show(found: dict[str, Any]) -> None:
    table = Table(box=None, header_style="bold")
    for heading in _COLUMNS:
        table.add_column(heading, no_wrap=True)
    for row in found["rows"]:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        table.add_row(*(form.format_map(row | {"ratio": ratio}) for form in _COLUMNS.values()))
    Console(file=sys.stdout, width=_WIDTH).print(table)
    for each in found["skipped"]:
        print(f"skipped: {each['job']}, {each['loader']}:{each['reads']}: {each['reason']}")
    print(found["verdict"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
