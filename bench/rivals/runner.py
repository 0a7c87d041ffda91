"""The process of one entry, which prints what it found as the last line, in JSON:

    python -m photochrom.bench.rivals.runner NAME write|check|measure|steps FIELDS

A module here has `batches`, a function of a task, and `NEEDS`, the modules that it imports where it uses them. One that
reads a format of its own has `write`, one that may be missing `INSTALL`, what to do about that.
"""

import json
import os
import random
import sys
import time
from importlib import import_module
from importlib.metadata import packages_distributions, version
from types import ModuleType
from typing import Any

from .entries import RIVALS
from .task import Task

Row = dict[str, Any]


def main(argv: list[str]) -> int:
    name, verb, fields = argv[0], argv[1], json.loads(argv[2])
    module = import_module(f".{name if name in RIVALS or verb == 'steps' else 'ours'}", __package__)
    # Before anything counts them.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: fields["threads"]])
    try:
        for needed in module.NEEDS:
            import_module(needed)
        found = _VERBS[verb](module, fields)
    except ImportError as error:
        found = {"skipped": ": ".join(filter(None, (str(error), getattr(module, "INSTALL", ""))))}
    print("\n" + json.dumps(found))
    return 0


def _write(module: ModuleType, fields: Row) -> Row:
    began = time.perf_counter()
    module.write(**fields)
    return {"seconds": time.perf_counter() - began}


def _check(module: ModuleType, fields: Row) -> Row:
    from .accuracy import check

    reference, task = fields.pop("reference"), Task(**fields)
    return check(_seeded(module, task), task, reference)


def _measure(module: ModuleType, fields: Row) -> Row:
    from .throughput import measure

    seconds, task = fields.pop("seconds"), Task(**fields)
    return measure(_seeded(module, task), task, seconds) | {"versions": _versions(module)}


def _seeded(module: ModuleType, task: Task) -> Any:
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    return module.batches(task)


def _steps(module: ModuleType, fields: Row) -> Row:
    found: Row = module.measure(**fields)
    return found


_VERBS = {"write": _write, "check": _check, "measure": _measure, "steps": _steps}


def _versions(module: ModuleType) -> dict[str, str]:
    """Of what it needs: as its package says, since not every module knows its own; else as the module does."""
    packages = packages_distributions()
    found = {}
    for name in ("torch", "numpy", *module.NEEDS):
        of = set(packages.get(name.split(".")[0], ()))
        if len(of) == 1:
            package = of.pop()
            found[package] = version(package)
        else:
            found[name] = str(getattr(sys.modules[name], "__version__", "?"))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
