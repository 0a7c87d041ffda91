"""The `photochrom` command: runs a verb, and prints errors that a user can mend as one sentence."""

import io
import os
import re
import signal
import sys
import traceback
from importlib import import_module

from ..pipelines.system import is_out_of_memory
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
    "pack": "lower --workers, or ",
    "train": "raise --train.grad_accum_steps, or lower --train.batch_size, or ",
    "evaluate": "lower --batch-size, or ",
    "colorize": "lower --size, or ",
    "serve": "serve fewer models, or ",
}

_USAGE = "usage: photochrom VERB ...\n\n" + "\n".join(f"  {verb:10} {text}" for verb, text in VERBS.items())


def main(argv: list[str] | None = None) -> int:
    """Runs `photochrom argv`; returns the exit code: 0 done, 1 failed, 2 bad usage, 130 interrupted.

    Where the reader of its output has closed it, as `head` does, the command ends quietly with 141.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever called
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  it stays open
    try:
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()
    except OSError as error:  # of the output; _run converts all others
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes the rest at its end
        if isinstance(error, BrokenPipeError):
            return 128 + signal.SIGPIPE
        return _print_error("", f"the output cannot be written: {error.strerror}")


def _run(argv: list[str]) -> int:
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
        sys.stdout.reconfigure(errors="backslashreplace")  # for a terminal that lacks letters
    module = "..bench.command" if verb == "bench" else f".commands.{verb}"
    try:
        return int(import_module(module, __package__).main(rest))
    except KeyboardInterrupt as interrupt:
        console.print(f"photochrom {verb}: {': '.join(('interrupted', *map(str, interrupt.args)))}")
        return 130
    except Exception as error:
        if is_out_of_memory(error):
            return _print_error(verb, _explain_memory(verb, error))
        if not isinstance(error, ValueError | OSError | ImportError):  # these a user can mend; others are our bugs
            raise
        return _print_error(verb, str(error), code=2 if isinstance(error, UsageError) else 1)


def _explain_memory(verb: str, error: Exception) -> str:
    """Returns a sentence for any library's out-of-memory error."""
    on_gpu = re.search(r"cuda|cublas|cudnn", str(error), re.IGNORECASE)
    size = re.search(r"allocate [\d.]+ \w+", str(error))
    device = "--train.device" if verb == "train" else "--device"
    return (
        f"{'the GPU' if on_gpu else 'this machine'}'s memory is full{f' (it could not {size[0]})' if size else ''}: "
        f"{_TO_SAVE_MEMORY.get(verb, '')}{f'use {device} cpu' if on_gpu else 'end other programs'}"
    )


def _print_error(verb: str, sentence: str, code: int = 1) -> int:
    if os.environ.get("PHOTOCHROM_TRACEBACK"):
        for line in traceback.format_exc().splitlines():
            console.print(line)
    console.print(f"{f'photochrom {verb}'.strip()}: {one_line(sentence)}")
    return code
