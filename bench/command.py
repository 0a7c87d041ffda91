"""photochrom bench VERB ...: each verb is the module of its name"""

import signal
import sys
from importlib import import_module

from ..engine.configuration.parser import nearest
from ..engine.console import console

VERBS = {
    "loader": "how fast loaders are by their settings, what each stage costs, and the fastest",
    "step": "how fast the training step is, by precision, layout, dilation and compilation",
    "rivals": "what people use today beside ours, from the same photographs to the same batches",
    "stalls": "where training waits, which resource bottleneck, and what would help",
    "scale": "what training makes of many machines, which resource bottleneck there, and what would help",
    "report": "all results that were kept, by machine, on one page",
}
_MODULES = {"step": ".step", "report": ".common.report"}
_USAGE = "usage: photochrom bench VERB ...\n\n" + "\n".join(f"  {verb:10} {what}" for verb, what in VERBS.items())


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(f"{_USAGE}\n\n'photochrom bench VERB --help' explains a verb.")
        sys.exit(0 if argv else 2)
    verb, *rest = argv
    if verb not in VERBS:
        console.print(f"photochrom bench: there is no verb {verb!r}{nearest(verb, VERBS)}\n\n{_USAGE}")
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: temporary folders are taken away
    return int(
        import_module(_MODULES.get(verb, f".{verb}.command"), __package__).main(rest, prog=f"photochrom bench {verb}")
    )
