"""photochrom bench loader --config RECIPE --data SHARDS: finds the fastest loader settings"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...engine.console import say
from ...pipelines.files import atomic_write
from ...pipelines.output_dir import check_output_file
from ..common.options import BenchmarkOptions, parse_run
from ..common.results import Results, report

_HEADER = "# Written by photochrom bench loader: give it after your recipe, --config RECIPE --config THIS\n"


@dataclass(frozen=True, kw_only=True)
class LoaderOptions(BenchmarkOptions):
    """Measures images per second and CPU time of loaders by backend, threads, prefetched batches and batch size, and
    the cost of each stage.

    Args:
        data: Shard set to load.
        seconds: Measuring time; each measurement takes at least three batches.
        apply: File to write the fastest loader settings to, as a recipe to give after the run's own. The configured
            settings are written if the difference is noise. The batch size is not changed, as training depends on it.
        out: JSON file for the results.
    """

    data: str
    seconds: float = 90.0
    apply: Path | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.apply and self.apply.exists() and not self.apply.read_text().startswith(_HEADER):
            raise ValueError(f"--apply {self.apply} exists and was not written by bench loader: name a new file")
        if self.apply:
            check_output_file(self.apply, name="--apply")


def main(argv: list[str], prog: str) -> int:
    options, config = parse_run(LoaderOptions, argv, prog)
    from . import measurement  # imports torch

    results = measurement.measure(config, options.seconds)
    report(results, options.out)
    if options.apply:
        apply(results, options.apply)
        say(f"written to {options.apply}: give it after your recipe, --config RECIPE --config {options.apply}")
    return 0


def apply(results: Results, path: Path) -> None:
    """Writes the fastest settings as a recipe, or the configured settings if the difference is noise."""
    chosen: dict[str, Any] = results["fastest" if results["is_beyond_noise"] else "configured"]
    settings = {name: value for name, value in chosen.items() if name != "batch_size"}
    with atomic_write(path) as file:
        file.write_text(f"{_HEADER}# {results['verdict']}\n" + yaml.safe_dump({"loader": settings}, sort_keys=False))
