"""Process of one entry. Prints its result as JSON in the last line:

    python -m photochrom.bench.rivals.runner NAME write|check|measure|steps FIELDS

A rival's module has `batches`, a function of a task, and `NEEDS`, the modules that it imports inside functions. A rival
with a format of its own has `write`; one that is not installed with this project has `INSTALL`, how to get it.
"""

import json
import os
import random
import sys
from collections.abc import Callable
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
    # Before libraries count the cores.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: fields["threads"]])
    try:
        for needed in module.NEEDS:
            import_module(needed)
        result = _VERBS[verb](module, fields)
    except ImportError as error:
        result = {"skipped": ": ".join(filter(None, (str(error), getattr(module, "INSTALL", ""))))}
    print("\n" + json.dumps(result))
    return 0


def _write(module: ModuleType, fields: Row) -> Row:
    module.write(**fields)
    return {}


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


_VERBS: dict[str, Callable[[ModuleType, Row], Row]] = {
    "write": _write,
    "check": _check,
    "measure": _measure,
    "steps": lambda module, fields: module.measure(**fields),
}


def _versions(module: ModuleType) -> dict[str, str]:
    """Returns the versions of the rival's packages, or of its modules if no package is known."""
    distributions = packages_distributions()
    versions = {}
    for name in ("torch", "numpy", *module.NEEDS):
        packages = set(distributions.get(name.split(".")[0], ()))
        if len(packages) == 1:
            package = packages.pop()
            versions[package] = version(package)
        else:
            versions[name] = str(getattr(sys.modules[name], "__version__", "?"))
    return versions


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
