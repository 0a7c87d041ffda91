"""photochrom bench scale --nodes N --gpus M: predicts training on many machines from what one of them can do"""

from dataclasses import dataclass
from pathlib import Path

from ...engine.configuration.config import check_image_size
from ...engine.configuration.parser import parse_options
from ...pipelines.ranges import check_ranges
from ..common.options import BenchmarkOptions
from ..common.results import report
from .machines import ORIGINAL_MACHINE, Precision, Stored, check_machine


@dataclass(frozen=True, kw_only=True)
class ScaleOptions(BenchmarkOptions):
    """Predicts images per second, waiting, the bottleneck and the duration of a training run on many machines.

    Args:
        nodes: Machines to predict for, besides the curve from 1 to 64.
        gpus: Devices of each machine; by default all.
        machine: Name of a machine in bench/scale/machine_files, or a .yaml file like those.
        stored: How photographs are stored: original-recipe (files, read as the original project does), originals
            (packed as they are), packed (at 288 pixels) or lab (at 288 pixels, as Lab).
        images: Photographs in the set; 16873 are SUN2012.
        epochs: Passes over it.
        batch_per_gpu: Photographs in a step on each device; 56 on each of 4 are the recipe's 224.
        width: Width of the network.
        size: Side of the photographs in pixels.
        precision: half (fp16 or bf16), fp32 (TF32 where available), or auto: half where available.
        grad_compression: All-reduce gradients in half the bytes.
        ceilings: Result file of bench stalls; its throughputs replace the machine's estimates.
        out: JSON file for the results.
    """

    nodes: int = 3
    gpus: int | None = None
    machine: str = ORIGINAL_MACHINE
    stored: Stored = "packed"
    images: int = 16_873
    epochs: int = 100
    batch_per_gpu: int = 56
    width: float = 1.0
    size: int = 256
    precision: Precision = "auto"
    grad_compression: bool = False
    ceilings: Path | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, nodes=(1, 1024), gpus=(1, 16), width=(1 / 64, 4))
        check_image_size(self.size, "--size ")
        check_machine(self.machine)


def main(argv: list[str], prog: str) -> int:
    options = parse_options(ScaleOptions, argv, prog=prog)
    from . import curve  # imports torch

    report(curve.measure(options), options.out, notes=curve.notes)
    return 0
