"""Measures soft encoding and losses beside a training step: python -m photochrom.bench.dev.losses

All run on one random batch. The step is that of the 313-bin network with rebalanced cross-entropy.
"""

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from ...engine.configuration.config import Device
from ...engine.configuration.parser import parse_options
from ...engine.distributed import resolve_device
from ...losses import L2, ColorLoss, Focal, RebalancedCrossEntropy, SmoothL1, ab_bins, soft_encode
from ...models import ColorPrediction, VGGColorizer
from ...pipelines import LabBatch
from ..common.options import BenchmarkOptions
from ..common.results import Results, make_results, report, spread_cells
from ..common.timing import collect, interleave

_STEP = "training step"


@dataclass(frozen=True, kw_only=True)
class LossesOptions(BenchmarkOptions):
    """Measures soft encoding and every loss, forward and backward, beside a whole training step.

    Args:
        size: Side of the photographs in pixels; targets have a quarter of it.
        batch_size: Photographs in a step.
        width: Width of the network.
        device: auto, cuda or cpu.
        seconds: Measuring time after a warm-up round; at least three rounds are measured.
        out: JSON file for the results.
    """

    size: int = 224
    batch_size: int = 64
    width: float = 1.0
    device: Device = "auto"
    seconds: float = 30.0
    out: Path | None = None


def main(argv: list[str]) -> int:
    options = parse_options(LossesOptions, argv, prog="python -m photochrom.bench.dev.losses")
    report(measure(options), options.out, table=_table)
    return 0


def measure(options: LossesOptions) -> Results:
    """Returns the milliseconds of each function, and its share of the training step."""
    device = resolve_device(options.device)
    times = collect(interleave(_functions(options, device), device), options.seconds)
    step_median = statistics.median(times[_STEP])
    rows = [
        {
            "what": name,
            "median(ms)": 1e3 * statistics.median(values),
            "min(ms)": 1e3 * min(values),
            "max(ms)": 1e3 * max(values),
            "share(%)": 100 * statistics.median(values) / step_median,
            "num_rounds": len(values),
        }
        for name, values in times.items()
    ]
    encoding, step = rows[0], rows[-1]
    verdict = f"soft encoding takes {encoding['share(%)']:.2f} % of a training step's {step['median(ms)']:.0f} ms"
    return make_results(options, device, rows, verdict)


def _table(results: Results) -> Table:
    lines = Table("what", "ms", "smallest", "largest", "of the step", box=None, header_style="bold")
    for row in results["rows"]:
        lines.add_row(row["what"], *spread_cells(row, "ms", digits=3), f"{row['share(%)']:.3g} %")
    return lines


def _functions(options: LossesOptions, device: torch.device) -> dict[str, Callable[[], object]]:
    """Returns the functions to measure, by name."""
    torch.manual_seed(0)
    shape = (options.batch_size, 2, options.size, options.size)
    # Smooth pictures of many colours, as soft encoding depends on the colours.
    coarse = torch.randn(options.batch_size, 2, 8, 8) * 30
    ab = torch.nn.functional.interpolate(coarse, size=shape[2:], mode="bicubic").clamp(-100, 90).to(device)
    L = torch.rand(options.batch_size, 1, options.size, options.size, device=device) * 100
    batch = LabBatch(L=L, ab=ab, index=torch.arange(options.batch_size))
    target = torch.nn.functional.avg_pool2d(ab, 4)

    model = VGGColorizer(width=options.width, head="bins").to(device).train()
    cross_entropy = RebalancedCrossEntropy(prior=torch.arange(1.0, 314).tolist()).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, fused=device.type == "cuda")
    logits = torch.randn(options.batch_size, 313, *target.shape[2:], device=device)
    colors = target + torch.randn_like(target)

    def step() -> None:
        cross_entropy(model(batch.L), batch).total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def score(loss: ColorLoss, output: Tensor) -> Callable[[], None]:
        bins = ab_bins(device) if output.shape[1] == 313 else None

        def forward_backward() -> None:
            leaf = output.detach().requires_grad_()
            loss(
                ColorPrediction(output=leaf, input_size=(options.size, options.size), bins=bins), batch
            ).total.backward()

        return forward_backward

    return {
        "soft_encode, k = 5": lambda: soft_encode(target, k=5),
        "soft_encode, k = 10": lambda: soft_encode(target, k=10),
        "the same by all 313 distances, k = 5": lambda: _by_all_distances(target),
        "L2": score(L2(), colors),
        "SmoothL1": score(SmoothL1(), colors),
        "Focal over L2": score(Focal(L2()), colors),
        "RebalancedCrossEntropy, ab head": score(cross_entropy, colors),
        "RebalancedCrossEntropy, bins head": score(cross_entropy, logits),
        "Focal over RebalancedCrossEntropy, bins head": score(Focal(cross_entropy), logits),
        _STEP: step,
    }


def _by_all_distances(ab: Tensor, k: int = 5, sigma: float = 5.0) -> tuple[Tensor, Tensor]:
    """Soft encoding as usually written."""
    squares = torch.cdist(ab.permute(0, 2, 3, 1), ab_bins(ab.device)).square()
    smallest, index = squares.topk(k, dim=-1, largest=False)
    return index, torch.softmax(-smallest / (2 * sigma**2), dim=-1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
