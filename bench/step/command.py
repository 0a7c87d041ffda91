"""photochrom bench step --config RECIPE: measures the training step by precision, memory format and compilation"""

from dataclasses import dataclass, field
from pathlib import Path

from ...pipelines.ranges import COUNT, check_ranges
from ..common.options import BenchmarkOptions, parse_run
from ..common.results import report
from ..scale.machines import check_machine


@dataclass(frozen=True, kw_only=True)
class StepOptions(BenchmarkOptions):
    """Measures training steps of one process on batches that are on the device: images per second, MFU, memory, and the
    time of forward, backward and optimizer.

    Args:
        variants: Each a few words: a precision, a memory format, a dilation, a compile mode, activation_checkpointing.
            Settings not named have torch's default. By default, variants that may be faster on this device.
        batch_sizes: Photographs in a step; each variant is measured with each. By default train.batch_size, on a CPU
            at most 4.
        find_max_batch: Find the largest batch that fits into a GPU's memory, as configured and for the fastest variant.
            Tries, and compiles, some ten sizes.
        trace: A card to count for in place of measuring: h100, h200, a100-a2-highgpu-8g, v100-n1-highmem-16, or a
            machine's file. Prints the kernels and bytes of the compiled step, as Inductor schedules them there, and a
            bound of its throughput. Needs no GPU.
        seconds: Measuring time after a warm-up round; at least three rounds are measured, however long they take.
        out: JSON file for the results.
    """

    variants: list[str] = field(default_factory=list)
    batch_sizes: list[int] = field(default_factory=list)
    find_max_batch: bool = False
    trace: str | None = None
    seconds: float = 60.0
    out: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, batch_sizes=COUNT)
        if self.trace:
            check_machine(self.trace)
            if self.find_max_batch:
                raise ValueError("--find-max-batch fills a GPU's memory, and --trace uses none: omit one of them")


def main(argv: list[str], prog: str) -> int:
    options, config = parse_run(StepOptions, argv, prog)
    if options.trace:
        from . import trace  # imports torch's compiler

        report(trace.measure(config, options), options.out)
        return 0
    from . import measurement  # imports torch

    report(measurement.measure(config, options), options.out, notes=measurement.notes)
    return 0
