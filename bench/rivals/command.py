"""photochrom bench rivals --data DIR: measures other data loaders beside this project's"""

from dataclasses import dataclass, field
from pathlib import Path

from ...engine.configuration.config import Device, check_image_size
from ...engine.configuration.parser import nearest, parse_options
from ..common.options import BenchmarkOptions
from ..common.results import report
from .entries import ENTRIES, Entry

_STEP = "step"  # of the training step, for --only


@dataclass(frozen=True, kw_only=True)
class RivalsOptions(BenchmarkOptions):
    """Measures other data loaders and this project's, from the same photographs to the same L and ab, each in its own
    process, in turn on the same cores; and the original project's training step beside the engine's.

    Args:
        data: Folder or archive of photographs, as pack takes it.
        samples: Photographs to take at most.
        size: Side of the batches in pixels.
        batch_size: Photographs in a batch.
        step_batch_size: Photographs in a training step; by default batch_size on a GPU, 2 on a CPU.
        threads: Cores of each entry, and its threads or workers; by default all cores of this process.
        seconds: Measuring time in all, divided over entries and three rounds. Making the data sets, starting processes
            and a first pass over the photographs come on top.
        only: Entries, separated by commas: a loader, as DaliLoader:originals:squash or a part of it from the left, or
            step, the training step. By default all.
        device: Device of the batches: auto, cuda or cpu.
        python: Interpreters of other environments, for rivals that cannot be installed beside this project.
        out: JSON file for the results.
    """

    data: Path
    samples: int = 512
    size: int = 256
    batch_size: int = 32
    step_batch_size: int | None = None
    threads: int | None = None
    seconds: float = 180.0
    only: str = ""
    device: Device = "cpu"
    python: list[Path] = field(default_factory=list)
    out: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("samples", "batch_size", "step_batch_size", "threads"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} {value} is not a positive number")
        if self.samples < self.batch_size:
            raise ValueError(f"--samples {self.samples} is fewer than a batch of {self.batch_size}: change one of them")
        check_image_size(self.size, "--size ")
        known = {_STEP, *(name for entry in ENTRIES for name in entry.names)}
        if unknown := sorted(self._only - known):
            names = dict.fromkeys(entry.loader for entry in ENTRIES)
            raise ValueError(
                f"there is no entry {unknown[0]}{nearest(unknown[0], known)}; known are {', '.join(names)} and {_STEP}"
            )

    @property
    def entries(self) -> list[Entry]:
        """Loaders to measure."""
        return [entry for entry in ENTRIES if not self.only or not self._only.isdisjoint(entry.names)]

    @property
    def measures_step(self) -> bool:
        """True if the training step is measured."""
        return not self.only or _STEP in self._only

    @property
    def _only(self) -> set[str]:
        return set(filter(None, self.only.split(",")))


def main(argv: list[str], prog: str) -> int:
    options = parse_options(RivalsOptions, argv, prog=prog)
    from . import measurement, tables  # import torch

    report(measurement.measure(options), options.out, table=tables.table, notes=tables.notes)
    return 0
