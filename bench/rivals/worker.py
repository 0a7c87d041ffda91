"""Process of one entry: python -m photochrom.bench.rivals.worker TASK prints what it measured as JSON in the last line.

It imports only what the entry needs. A rival's module has `batches`, a function of a task; one with a format of its own
has `write`.
"""

import json
import os
import sys
from importlib import import_module

from .entries import RIVALS


def main(fields: str) -> None:
    task_fields = json.loads(fields)
    # Before libraries count the cores.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: task_fields["threads"]])
    from .task import Task
    from .throughput import measure

    task = Task(**task_fields)
    module = import_module(f".{task.loader if task.loader in RIVALS else 'ours'}", __package__)
    print("\n" + json.dumps(measure(module.batches(task), task)))


if __name__ == "__main__":
    main(sys.argv[1])
