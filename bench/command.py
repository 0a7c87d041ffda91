"""photochrom bench VERB ...: finds the verb's module and runs it"""

import sys
from importlib import import_module

from ..engine.commands import interrupt_at_signals
from ..engine.configuration.parser import nearest
from ..engine.console import console

VERBS = {
    "loader": "finds the fastest loader settings, and measures what each stage costs",
    "step": "measures the training step by precision, memory format, dilation and compilation",
    "rivals": "measures other data loaders and this project's on the same photographs",
    "stalls": "finds the bottleneck of a training run, and ranks fixes",
    "scale": "predicts throughput and the bottleneck on many machines",
    "report": "prints all results in a folder as Markdown",
}
_MODULES = {"report": ".common.report"}
_USAGE = "usage: photochrom bench VERB ...\n\n" + "\n".join(f"  {verb:10} {what}" for verb, what in VERBS.items())


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(f"{_USAGE}\n\n'photochrom bench VERB --help' explains a verb.")
        sys.exit(0 if argv else 2)
    verb, *rest = argv
    if verb not in VERBS:
        console.print(f"photochrom bench: there is no verb {verb!r}{nearest(verb, VERBS)}")
        print(f"\n{_USAGE}", file=sys.stderr)
        return 2
    interrupt_at_signals()  # temporary folders are removed
    module = import_module(_MODULES.get(verb, f".{verb}.command"), __package__)
    return int(module.main(rest, prog=f"photochrom bench {verb}"))
