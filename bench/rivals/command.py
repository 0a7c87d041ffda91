"""photochrom bench rivals --data DIR: measures other data loaders beside this project's"""

from dataclasses import dataclass, field
from pathlib import Path

from ...engine.configuration.config import Device, check_image_size
from ...engine.configuration.parser import alternatives, parse_options
from ...pipelines.ranges import WORKERS, check_ranges
from ...pipelines.system import available_cpus
from ..common.options import BenchmarkOptions
from ..common.results import report
from .entries import ENTRIES, Entry


@dataclass(frozen=True, kw_only=True)
class RivalsOptions(BenchmarkOptions):
    """Measures other data loaders and this project's: from the same photographs to the same L and ab, in turn, on the
    same cores, each in its own process.

    Args:
        data: Folder or archive of photographs, as pack takes it.
        samples: Photographs to take at most.
        size: Side of the batches in pixels.
        batch_size: Photographs in a batch.
        threads: Cores of each entry, and its threads or workers; by default all cores of this process.
        seconds: Measuring time in all, divided over entries and three rounds. Making the data sets, starting processes
            and passes over the photographs come on top.
        only: Entries to measure, such as DaliLoader:originals:squash, or all that begin so, such as DaliLoader. By
            default all.
        device: Device of the batches: auto, cuda or cpu.
        out: JSON file for the results.
    """

    data: Path
    samples: int = 512
    size: int = 256
    batch_size: int = 32
    threads: int | None = None
    seconds: float = 180.0
    only: list[str] = field(default_factory=list)
    device: Device = "cpu"
    out: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, threads=WORKERS)
        if self.samples < self.batch_size:
            raise ValueError(f"--samples {self.samples} is fewer than a batch of {self.batch_size}: change one of them")
        check_image_size(self.size, "--size ")
        for name in self.only:
            if not any(entry.matches(name) for entry in ENTRIES):
                known = dict.fromkeys(entry.loader for entry in ENTRIES)
                raise ValueError(f"--only {name} is not an entry{alternatives(name, known)}")

    @property
    def entries(self) -> list[Entry]:
        """Loaders to measure."""
        return [entry for entry in ENTRIES if not self.only or any(map(entry.matches, self.only))]

    @property
    def num_threads(self) -> int:
        """Cores of each entry."""
        return self.threads or available_cpus()


def main(argv: list[str], prog: str) -> int:
    options = parse_options(RivalsOptions, argv, prog=prog)
    from . import measurement  # imports torch

    report(measurement.measure(options), options.out, notes=measurement.notes)
    return 0
