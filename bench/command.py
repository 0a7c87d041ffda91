"""photochrom bench VERB --config RECIPE --data SHARDS [--seconds S] [--out FILE.json] [--dotted.settings ...]"""

import argparse
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from rich.console import Console

from ..engine.commands.train import parse
from ..engine.config import RunConfig
from ..engine.console import console
from ..engine.output import write_json
from ..engine.parser import nearest

VERBS = {
    "stalls": "where training waits, which resource binds, and what would help",
}
_USAGE = "usage: photochrom bench VERB --config RECIPE --data SHARDS ...\n\n" + "\n".join(
    f"  {verb:10} {what}" for verb, what in VERBS.items()
)
_OPTIONS = """\
  --data SHARDS     the shard set
  --seconds S       how long to measure, after a round to warm up (60); slow steps take longer, three rounds at least
  --out FILE.json   where the figures go, and a picture of them beside it
  --help            this
All else is as in 'photochrom train': --config RECIPE, then settings by their dotted names."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is measured, for how long, and where the figures go."""

    config: RunConfig
    seconds: float
    out: Path | None


def main(argv: list[str]) -> int:
    if not argv or not {"-h", "--help"}.isdisjoint(argv):
        print(f"{_USAGE}\n\n{_OPTIONS}")
        sys.exit(0 if argv else 2)
    verb, *rest = argv
    if verb not in VERBS:
        console.print(f"photochrom bench: there is no verb {verb!r}{nearest(verb, VERBS)}\n\n{_USAGE}")
        return 2
    task = _task(rest, f"photochrom bench {verb}")
    module = import_module(f".{verb}", __package__)
    found = module.measure(task.config, task.seconds)
    Console(file=sys.stdout).print(module.show(found))
    print(found["verdict"])
    for line in module.advice(found):
        print(f"  {line}")
    if task.out:
        write_json(task.out, found)
        module.draw(found, task.out.with_suffix(".png"))
    return 0


def _task(argv: list[str], prog: str) -> Task:
    own = argparse.ArgumentParser(prog=prog, add_help=False, allow_abbrev=False, exit_on_error=False)
    own.add_argument("--data")
    own.add_argument("--seconds", type=float, default=60.0)
    own.add_argument("--out", type=Path)
    try:
        found, rest = own.parse_known_args(argv)
    except argparse.ArgumentError as error:
        console.print(f"{prog}: {error}")
        sys.exit(2)
    if found.data is None:
        console.print(f"{prog}: --data SHARDS must be given ('photochrom bench --help' explains)")
        sys.exit(2)
    faults = [f"--seconds {found.seconds} is not positive"] if not found.seconds > 0 else []
    if found.out and (found.out.suffix != ".json" or not found.out.parent.is_dir()):
        faults.append(f"--out {found.out} is no .json file in a folder that exists")
    if faults:
        console.print(f"{prog}: {faults[0]}")
        sys.exit(2)
    config = parse([*rest, "--data.train", found.data, "--out", "unused"], prog=prog)
    return Task(config=config, seconds=found.seconds, out=found.out)
