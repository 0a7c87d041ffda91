"""The `photochrom` command: finds the verb, runs it, and turns what a user can mend into one sentence."""

import os
import sys
import traceback
from importlib import import_module

from .configuration.parser import nearest
from .console import console

VERBS = {
    "download": "downloads the archive of a data set",
    "pack": "packs a folder or an archive of photographs into a shard set",
    "index": "adopts WebDataset shards from elsewhere",
    "verify": "checks a shard set against its manifest",
    "stats": "says what is in a shard set",
    "train": "trains a colorizer on a shard set",
    "evaluate": "scores models over whole shard sets, with the best and the worst pictures",
    "colorize": "colorizes photographs and videos at full resolution",
    "serve": "colorizes for a browser, and over HTTP for programs",
    "export": "writes a trained network as ONNX",
    "convert": "reads and writes the weights of other projects",
    "bench": "measures: where training waits, and why",
    "doctor": "says what this machine can do and what is missing",
}

_MODULES = {"bench": "..bench.command", "download": ".commands.download"}  # the others are named as their verbs

_TO_SAVE_MEMORY = {
    "train": "raise --train.grad_accum_steps, or lower --train.batch_size",
    "evaluate": "lower --batch-size",
    "colorize": "lower --size or --batch-size, or use --device cpu",
    "serve": "serve fewer models, or use --device cpu",
}

_USAGE = "usage: photochrom VERB ...\n\n" + "\n".join(f"  {verb:10} {what}" for verb, what in VERBS.items())


def main(argv: list[str] | None = None) -> int:
    """Runs `photochrom argv`; returns the exit code: 0 done, 1 failed, 2 bad usage, 130 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(f"{_USAGE}\n\n'photochrom VERB --help' explains a verb.")
        return 0 if argv else 2
    if argv[0] == "--version":
        from .. import __version__

        print(__version__)
        return 0
    verb, *rest = argv
    if verb not in VERBS:
        console.print(f"photochrom: there is no verb {verb!r}{nearest(verb, VERBS)}\n\n{_USAGE}")
        return 2
    try:
        return int(import_module(_MODULES.get(verb, f".commands.{verb}"), __package__).main(rest))
    except KeyboardInterrupt as interrupt:
        console.print(f"photochrom {verb}: {': '.join(('interrupted', *map(str, interrupt.args)))}")
        return 130
    except (ValueError, OSError, ImportError) as error:  # what a user can mend; anything else is our bug, and is shown
        return _say_why(verb, str(error))
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's; not imported for verbs that do without it
            raise
        return _say_why(verb, f"the GPU's memory is full ({str(error).split('. ')[0]}): {_TO_SAVE_MEMORY.get(verb)}")


def _say_why(verb: str, sentence: str) -> int:
    if os.environ.get("PHOTOCHROM_TRACEBACK"):
        traceback.print_exc()
    console.print(f"photochrom {verb}: {' '.join(sentence.split())}")
    return 1
