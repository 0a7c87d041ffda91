"""Runs each entry in a process of its own, in the first environment that has its packages."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ...engine.distributed import resolve_device
from ...pipelines.system import available_cpus
from .command import RivalsOptions
from .datasets import Datasets
from .entries import RIVALS, Entry
from .rows import Row

_TIMEOUT = 600.0  # seconds of a process besides its measuring time


class EntryUnavailable(Exception):
    """The reason why an entry cannot run on this machine."""


class EntryRunner:
    """Runs entries in processes.

    Args:
        options: Options of the verb.
        folder: Folder for the data sets.
    """

    def __init__(self, options: RivalsOptions, folder: Path) -> None:
        self._options, self._folder = options, folder
        self._threads = options.threads or available_cpus()
        self._device = resolve_device(options.device).type
        self._python: dict[str, Path] = {}  # interpreter by rival
        self.datasets = Datasets(options, folder, self._write)
        package = folder / "import" / "photochrom"  # for interpreters of other environments
        if not package.exists():
            package.parent.mkdir()
            package.symlink_to(Path(__file__).resolve().parents[2])

    def check(self, entry: Entry) -> Row:
        """Makes the entry's data set, and checks its batches. Raises EntryUnavailable."""
        return self._load("check", entry, reference=str(self.datasets.path("reference")))

    def measure(self, entry: Entry, seconds: float) -> Row:
        """Measures the entry once. Raises EntryUnavailable."""
        return self._load("measure", entry, seconds=seconds)

    def measure_steps(self, seconds: float) -> Row:
        """Measures all rounds of the training step. Raises EntryUnavailable."""
        options = self._options
        return self._call(
            "train_step",
            "steps",
            data=str(self.datasets.path("originals")),
            size=options.size,
            batch_size=options.step_batch_size or (options.batch_size if self._device == "cuda" else 2),
            threads=self._threads,
            device=self._device,
            seconds=seconds,
        )

    def _load(self, verb: str, entry: Entry, **more: Any) -> Row:
        return self._call(
            entry.loader,
            verb,
            loader=entry.loader,
            data=str(self.datasets.path(entry.reads)),
            crop=entry.crop or entry.job,
            size=self._options.size,
            batch_size=self._options.batch_size,
            threads=self._threads,
            num_photographs=self.datasets.num_photographs,
            device=self._device,
            **more,
        )

    def _write(self, rival: str, folder: Path, out: Path) -> None:
        self._call(rival, "write", folder=str(folder), out=str(out), threads=self._threads)

    def _call(self, name: str, verb: str, **fields: Any) -> Row:
        """Returns the process's result."""
        reasons = []
        others = self._options.python if name in RIVALS else []
        for python in [self._python[name]] if name in self._python else [Path(sys.executable), *others]:
            result = self._run(python, name, verb, fields)
            if "skipped" not in result:
                self._python[name] = python
                return result
            reasons.append(str(result["skipped"]))
        raise EntryUnavailable(reasons[-1])

    def _run(self, python: Path, name: str, verb: str, fields: Row) -> Row:
        if "loader" in fields:
            fields = fields | {"started": time.monotonic()}
        command = [str(python), "-P", "-m", f"{__package__}.runner", name, verb, json.dumps(fields)]
        paths = [str(self._folder.resolve() / "import"), os.environ.get("PYTHONPATH", "")]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        try:
            timeout = _TIMEOUT + fields.get("seconds", 0)
            done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise EntryUnavailable(f"it did not end in {error.timeout:.0f} s") from None
        except OSError as error:
            raise ValueError(f"--python {python} cannot be started: {error.strerror}") from None
        if done.returncode:
            raise EntryUnavailable(f"it failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
        result: Row = json.loads(done.stdout.splitlines()[-1])
        return result
