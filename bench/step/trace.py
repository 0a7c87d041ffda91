"""Counts the kernels and bytes of compiled training steps on a card, and how fast the card could be at best."""

from collections.abc import Iterator
from typing import Any

import torch

from ...engine.configuration.config import RunConfig, to_plain_dict
from ...engine.configuration.registry import build_model
from ...engine.console import console, plural
from ...engine.training.flops import flops_per_image
from ...losses import ColorLoss
from ...models import Colorizer
from ...pipelines import LabBatch
from ...pipelines.loading.synthetic_loader import random_lab
from ..common.options import used_settings
from ..common.results import Results, make_results
from ..scale.machines import Machine, SourcedValue, load_machine
from .command import StepOptions
from .kernels import Kernel, trace_step
from .measurement import CONFIGURED, apply_variant, loss_without_set

CONVOLUTIONS = "convolutions"
_BESIDE = "beside_convolutions(GB)"

_CPU = torch.device("cpu")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def measure(config: RunConfig, options: StepOptions) -> Results:
    """Returns the kernels of each variant by kind, and a bound of its throughput. Raises ValueError for a CPU."""
    assert options.trace
    machine = load_machine(options.trace)
    runs = {CONFIGURED: config} | {name: apply_variant(config, name) for name in options.variants}
    sizes = options.batch_sizes or [config.train.batch_size]
    console.print(f"{plural(len(runs) * len(sizes), 'trace')}, each of some 20 s ...")
    rows = [row for name, run in runs.items() for size in sizes for row in _rows(name, run, size, machine)]
    bounds = [row for row in rows if row["kernels"] == "all"]
    best = max(bounds, key=lambda row: row["bound(img/s)"])
    arithmetic, beside, gigabytes = (best[key] for key in ("arithmetic(ms)", "beside_convolutions(ms)", _BESIDE))
    verdict = (
        f"at most {best['bound(img/s)']:,.0f} images/s on {machine.name}: {arithmetic:.3g} ms of arithmetic and "
        f"{beside:.3g} ms for {gigabytes:.3g} GB beside the convolutions, both at its peak ({best['variant']}, "
        f"batches of {best['batch_size']})"
    )
    return make_results(config, _CPU, rows, verdict) | {
        "settings": used_settings(config, **to_plain_dict(options)),
        "machine_file": machine.sources(),
    }


def _rows(name: str, run: RunConfig, batch_size: int, machine: Machine) -> Iterator[dict[str, Any]]:
    """Yields a row for each kind of kernel, and one for all."""
    bandwidth = 1e9 * _value(machine, machine.device_memory, "device_memory(GB/s)")
    precision = _precision(run, machine)
    colorizer, loss = build_model(run.model), loss_without_set(run)
    kernels = _trace(colorizer, loss, run, batch_size, precision, machine)
    variant = {"variant": name, "batch_size": batch_size, "precision": precision}
    for kind in dict.fromkeys(kernel.kind for kernel in kernels):
        yield {**variant, "kernels": kind, **_sums([k for k in kernels if k.kind == kind], bandwidth)}
    peak, key = (
        (machine.fp32_peak, "fp32_peak(TFLOP/s)") if precision == "fp32" else (machine.half_peak, "half_peak(TFLOP/s)")
    )
    arithmetic = flops_per_image(colorizer, run.data.size, _CPU) * batch_size
    arithmetic_seconds = arithmetic / (1e12 * _value(machine, peak, key))
    beside = sum(kernel.num_bytes for kernel in kernels if kernel.kind != CONVOLUTIONS)
    yield {
        **variant,
        "kernels": "all",
        **_sums(kernels, bandwidth),
        "arithmetic(ms)": 1e3 * arithmetic_seconds,
        _BESIDE: beside / 1e9,
        "beside_convolutions(ms)": 1e3 * beside / bandwidth,
        "bound(img/s)": batch_size / (arithmetic_seconds + beside / bandwidth),
    }


def _sums(kernels: list[Kernel], bandwidth: float) -> dict[str, float]:
    num_bytes = sum(kernel.num_bytes for kernel in kernels)
    return {"number": len(kernels), "GB": num_bytes / 1e9, "memory(ms)": 1e3 * num_bytes / bandwidth}


def _trace(
    colorizer: Colorizer, loss: ColorLoss, run: RunConfig, batch_size: int, precision: str, machine: Machine
) -> list[Kernel]:
    L, ab = random_lab(1, run.data.size, seed=0)
    # The loss makes and caches constants, which must not be fake: so the first step is a real one.
    loss(colorizer(L), LabBatch(L=L, ab=ab, index=torch.arange(1)))
    if run.train.memory_format != "contiguous":
        colorizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return trace_step(
        colorizer,
        loss,
        batch_size=batch_size,
        size=run.data.size,
        dtype=_DTYPES[precision],
        capability=_value(machine, machine.compute_capability, "compute_capability"),
        multiprocessors=int(_value(machine, machine.multiprocessors, "multiprocessors")),
    )


def _precision(run: RunConfig, machine: Machine) -> str:
    if run.train.precision != "auto":
        return run.train.precision
    return "bf16" if _value(machine, machine.compute_capability, "compute_capability") >= 8 else "fp16"


def _value(machine: Machine, sourced: SourcedValue | None, key: str) -> float:
    if sourced is None:
        raise ValueError(f"--trace {machine.name}: the machine's file has no {key}: name one with a GPU, or add it")
    return sourced.value
