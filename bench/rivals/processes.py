"""Runs entries, each in a process of its own, in the first environment that has what it needs."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ...engine.distributed import resolve_device
from ...pipelines.system import available_cpus
from .config import RivalsConfig
from .datasets import Work
from .entries import RIVALS, Entry
from .rows import Row

_PATIENCE = 600.0  # seconds beyond those of measuring, in which a process must have done what it was asked for


class Missing(Exception):
    """A entry cannot run here; says why."""


class EntryRunner:
    """Where they run.

    Args:
        config: Of the verb.
        folder: For what they read.
    """

    def __init__(self, config: RivalsConfig, folder: Path) -> None:
        self._config, self._folder = config, folder
        self._threads = config.threads or available_cpus()
        self._device = resolve_device(config.device).type
        self._python: dict[str, Path] = {}  # of rivals that have been found
        self.work = Work(config, folder, self._write)

    def check(self, entry: Entry) -> Row:
        """Makes what it reads, and compares what it makes. Raises Missing when it cannot be."""
        return self._load("check", entry, reference=str(self.work.path("reference")))

    def measure(self, entry: Entry, seconds: float) -> Row:
        """One turn. Raises Missing when it cannot be."""
        return self._load("measure", entry, seconds=seconds)

    def measure_steps(self, seconds: float) -> Row:
        """All rounds of the training step. Raises Missing when it cannot be."""
        config = self._config
        return self._call(
            "train_step",
            "steps",
            data=str(self.work.path("originals")),
            size=config.size,
            batch_size=config.step_batch_size or (config.batch_size if self._device == "cuda" else 2),
            width=config.step_width,
            threads=self._threads,
            device=self._device,
            seconds=seconds,
        )

    def _load(self, verb: str, entry: Entry, **more: Any) -> Row:
        return self._call(
            entry.loader,
            verb,
            loader=entry.loader,
            data=str(self.work.path(entry.reads)),
            crop=entry.crop or entry.job,
            size=self._config.size,
            batch_size=self._config.batch_size,
            threads=self._threads,
            num_photographs=self.work.num_photographs,
            device=self._device,
            **more,
        )

    def _write(self, rival: str, folder: Path, out: Path) -> None:
        self._call(rival, "write", folder=str(folder), out=str(out), threads=self._threads)

    def _call(self, name: str, verb: str, **fields: Any) -> Row:
        """What the process found."""
        reasons = []
        here = Path(sys.executable)
        others = self._config.python if name in RIVALS else []
        for python in [self._python[name]] if name in self._python else [here, *others]:
            found = self._run(python, name, verb, fields)
            if "skipped" not in found:
                self._python[name] = python
                return found
            reasons.append(str(found["skipped"]))
        raise Missing(reasons[-1])

    def _run(self, python: Path, name: str, verb: str, fields: Row) -> Row:
        if verb in ("check", "measure"):
            fields = fields | {"started": time.monotonic()}
        command = [str(python), "-P", "-m", f"{__package__}.runner", name, verb, json.dumps(fields)]
        paths = [str(self._folder.resolve() / "import"), os.environ.get("PYTHONPATH", "")]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        try:
            patience = _PATIENCE + fields.get("seconds", 0)
            done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=patience)
        except subprocess.TimeoutExpired as error:
            raise Missing(f"it did not end in {error.timeout:.0f} s") from None
        except OSError as error:
            raise ValueError(f"--python {python} cannot be started: {error.strerror}") from None
        if done.returncode:
            raise Missing(f"it failed: {(done.stderr.strip().splitlines() or ['without a word'])[-1]}")
        found: Row = json.loads(done.stdout.splitlines()[-1])
        return found
