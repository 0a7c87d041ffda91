"""photochrom bench stalls --config RECIPE --data SHARDS: finds where training waits"""

from dataclasses import dataclass
from pathlib import Path

from ..common.options import BenchmarkOptions, parse_run
from ..common.results import report


@dataclass(frozen=True, kw_only=True)
class StallsOptions(BenchmarkOptions):
    """Runs the same step on synthetic, cached, in-memory and on-disk data, names the bottleneck, and ranks fixes by
    expected speed-up.

    Args:
        data: Shard set to train on.
        seconds: Measuring time after a warm-up round; at least three rounds are measured, however long they take.
        out: JSON file for the results.
    """

    data: str
    seconds: float = 60.0
    out: Path | None = None


def main(argv: list[str], prog: str) -> int:
    options, config = parse_run(StallsOptions, argv, prog)
    from . import measurement  # imports torch

    results = measurement.measure(config, options.seconds)
    report(results, options.out, notes=measurement.advice)
    return 0
