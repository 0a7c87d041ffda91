"""The `photochrom` command: runs a verb, and prints errors that a user can mend as one sentence."""

import io
import os
import sys
import traceback
from importlib import import_module

from .configuration.parser import UsageError, nearest
from .console import console, one_line

VERBS = {
    "pack": "packs photographs into a shard set",
    "index": "makes a shard set of WebDataset shards",
    "verify": "checks a shard set against its manifest",
    "stats": "summarizes a shard set",
    "train": "trains a colorizer on a shard set",
    "evaluate": "scores models on shard sets, with the best and the worst pictures",
    "colorize": "colorizes photographs and videos at full resolution",
    "serve": "serves models to browsers and, over HTTP, to programs",
    "models": "lists the models that come with Photochrom",
    "export": "exports a trained network to ONNX, or as a small model file with a card",
    "convert": "converts weights from and to other projects",
    "bench": "measures loaders, training steps and bottlenecks",
    "doctor": "checks what this machine can do and what is missing",
}

_TO_SAVE_MEMORY = {
    "train": "raise --train.grad_accum_steps, or lower --train.batch_size",
    "evaluate": "lower --batch-size",
    "colorize": "lower --size or --batch-size, or use --device cpu",
    "serve": "serve fewer models, or use --device cpu",
}

_USAGE = "usage: photochrom VERB ...\n\n" + "\n".join(f"  {verb:10} {text}" for verb, text in VERBS.items())


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
        console.print(f"photochrom: there is no verb {verb!r}{nearest(verb, VERBS)}")
        print(f"\n{_USAGE}", file=sys.stderr)
        return 2
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for a terminal that has not all letters
    module = "..bench.command" if verb == "bench" else f".commands.{verb}"
    try:
        return int(import_module(module, __package__).main(rest))
    except KeyboardInterrupt as interrupt:
        console.print(f"photochrom {verb}: {': '.join(('interrupted', *map(str, interrupt.args)))}")
        return 130
    except (ValueError, OSError, ImportError) as error:  # a user can mend these; other errors are our bugs
        return _print_error(verb, str(error), code=2 if isinstance(error, UsageError) else 1)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
            raise
        advice = _TO_SAVE_MEMORY.get(verb, "use --device cpu")
        return _print_error(verb, f"the GPU's memory is full ({str(error).split('. ')[0]}): {advice}")


def _print_error(verb: str, sentence: str, code: int = 1) -> int:
    if os.environ.get("PHOTOCHROM_TRACEBACK"):
        for line in traceback.format_exc().splitlines():
            console.print(line)
    console.print(f"photochrom {verb}: {one_line(sentence)}")
    return code
