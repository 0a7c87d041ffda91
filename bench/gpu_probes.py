"""Probes of bench/gpu.sh, for what no command measures: python3 -m photochrom.bench.gpu_probes PROBE [OPTION ...]

Each probe writes one JSON file. On a CPU it measures the same on toy sizes, for rehearsals.
"""

import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ..engine.configuration.config import ClassSpec, RunConfig
from ..engine.configuration.registry import build_model
from ..engine.distributed import make_training_accelerator, resolve_device
from ..engine.evaluation.predictors import ModelPredictor
from ..engine.evaluation.score import Scorer
from ..engine.training.flops import flops_per_image
from ..engine.training.loop import endless
from ..engine.training.run import prepare
from ..pipelines.structured import read_json
from .common.options import BenchmarkOptions, parse_run, used_settings
from .common.results import Results, make_results, report
from .step.measurement import CONFIGURED, Step, apply_variant

_GOALS = {"images/s": 1900.0, "data_wait(%)": 2.0, "of_measured_product(%)": 60.0}  # of an H100 and an H200
_STEPS = 3
_KERNELS = 40  # rows of a profile, the longest first


@dataclass(frozen=True, kw_only=True)
class ProbeOptions(BenchmarkOptions):
    """Measures one thing for bench/gpu.sh.

    Args:
        data: Shard set, for syncs.
        step: Results of bench step, whose fastest variant is profiled.
        peak: Results of the probe peak, for loop.
        runs: Folder of runs named by their loaders, for loop.
        out: JSON file for the results.
    """

    data: str = "unused"
    step: Path | None = None
    peak: Path | None = None
    runs: Path | None = None
    out: Path | None = None


def peak(config: RunConfig, options: ProbeOptions) -> Results:
    """Returns the bandwidth of a copy in GB/s, read and written, and the TFLOP/s of a bf16 product on random data."""
    device = resolve_device(config.train.device)
    side, numel = (8192, 1 << 30) if device.type == "cuda" else (256, 1 << 20)
    left, right = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    source = torch.randn(numel, device=device)
    target = torch.empty_like(source)
    product, copy = (_seconds(call, device) for call in (lambda: left @ right, lambda: target.copy_(source)))
    row = {"side": side, "product(TFLOP/s)": 2e-12 * side**3 / product, "copy(GB/s)": 8e-9 * numel / copy}
    verdict = f"{row['product(TFLOP/s)']:.0f} TFLOP/s in bf16, {row['copy(GB/s)']:,.0f} GB/s"
    return make_results(used_settings(config), device, [row], verdict)


def _seconds(call: Callable[[], Any], device: torch.device, number: int = 10) -> float:
    for _ in range(_STEPS):
        call()
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(number):
        call()
    _synchronize(device)
    return (time.perf_counter() - start) / number


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def profile(config: RunConfig, options: ProbeOptions) -> Results:
    """Returns the milliseconds of each kernel in a step of the fastest variant, the longest first."""
    device = resolve_device(config.train.device)
    assert options.step
    best = max(read_json(options.step)["rows"], key=lambda row: row["median(img/s)"])
    run = config if best["variant"] == CONFIGURED else apply_variant(config, best["variant"])
    step = Step(run, best["batch_size"], device)
    for _ in range(_STEPS):
        step.run()
    _synchronize(device)
    with torch.profiler.profile() as profiler:
        for _ in range(_STEPS):
            step.run()
        _synchronize(device)
    on_gpu, attribute = (
        device.type == "cuda",
        "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total",
    )
    microseconds = {
        event.key: (getattr(event, attribute), event.count)
        for event in profiler.key_averages()
        if not on_gpu or (event.device_type.name == "CUDA" and not event.is_user_annotation)  # operators count twice
    }
    total = sum(time for time, _ in microseconds.values())
    rows = [
        {"kernel": key, "ms": time / 1e3 / _STEPS, "share(%)": 100 * time / total, "calls": count / _STEPS}
        for key, (time, count) in sorted(microseconds.items(), key=lambda item: -item[1][0])[:_KERNELS]
    ]
    verdict = f"{best['variant']}: {total / 1e3 / _STEPS:.1f} ms in kernels for each step"
    return make_results(used_settings(run), device, rows, verdict)


def syncs(config: RunConfig, options: ProbeOptions) -> Results:
    """Returns the lines at which the host waits for the GPU, in three training steps and one validation batch."""
    run = prepare(config, make_training_accelerator(config.train), None)
    device, batches, validation = run.accelerator.device, endless(run.loader), run.validation
    assert validation

    def train() -> None:
        for step in range(_STEPS):
            run.trainer.train_step(next(batches), step=step, lr=1e-5)

    def validate() -> None:
        scorer = Scorer({"model": ModelPredictor(run.trainer.eval_model, run.trainer.loss)}, validation.data.prior)
        next(scorer.rows(validation, every=1))

    train()  # compiles, and allocates
    rows: list[dict[str, Any]] = []
    for name, call in {"train": train, "validate": validate}.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
            try:
                call()
            finally:
                if device.type == "cuda":
                    torch.cuda.set_sync_debug_mode("default")
        lines = Counter(f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message))
        rows += [{"where": name, "line": line, "number": number} for line, number in lines.most_common()]
    for loader in (run.loader, validation, run.preview):
        loader.close()
    skipped = "" if device.type == "cuda" else ": skipped, this device is a CPU"
    number = sum(row["number"] for row in rows)
    return make_results(used_settings(config), device, rows, f"{number} waits for the GPU{skipped}")


def exact(config: RunConfig, options: ProbeOptions) -> Results:
    """Returns how far the losses of compiled steps are from those of the CPU in fp32, for bins and focal."""
    device = resolve_device(config.train.device)
    losses = {
        "bins": ("bins", ClassSpec(class_path="RebalancedCrossEntropy", init_args={})),
        "focal": ("ab", ClassSpec(class_path="Focal", init_args={"base": {"class_path": "L2", "init_args": {}}})),
    }
    rows: list[dict[str, Any]] = []
    for name, (head, loss) in losses.items():
        model = replace(config.model, init_args={**config.model.init_args, "head": head})
        run = replace(config, model=model, loss=loss)
        reference = _losses(apply_variant(replace(run, train=replace(run.train, device="cpu")), "fp32"))
        for precision in ("fp32", "bf16"):
            words = f"{precision} channels_last" + " default" * (device.type == "cuda")  # on a CPU, not compiled
            values = _losses(apply_variant(run, words))
            worst = max(abs(ours / theirs - 1) for ours, theirs in zip(values, reference, strict=True))
            rows.append({"loss": name, "variant": words, "largest_difference(%)": 100 * worst})
    worst = max(row["largest_difference(%)"] for row in rows)
    return make_results(used_settings(config), device, rows, f"losses differ by {worst:.2g} % at most")


def _losses(run: RunConfig) -> list[float]:
    step = Step(run, run.train.batch_size, resolve_device(run.train.device))
    return [float(step.trainer.train_step(step.batch, step=i, lr=1e-4)[0]["loss"]) for i in range(5)]


def loop(config: RunConfig, options: ProbeOptions) -> Results:
    """Returns images/s, data wait and utilization of the second half of each run, and whether the goals are met."""
    assert options.peak
    assert options.runs
    device = resolve_device(config.train.device)
    flops = flops_per_image(build_model(config.model), config.data.size, device)
    product = 1e12 * read_json(options.peak)["rows"][0]["product(TFLOP/s)"]
    rows = [
        {"loader": folder.name, **values, "of_measured_product(%)": 100 * flops * values["images/s"] / product}
        for folder in sorted(options.runs.iterdir())
        if (values := _second_half(folder / "metrics.jsonl"))
    ]
    if not rows:
        raise ValueError(f"no run in {options.runs} has logged anything: see its output above")
    for row in rows:
        met = {name: row[name] <= goal if "wait" in name else row[name] >= goal for name, goal in _GOALS.items()}
        row["missed"] = ", ".join(f"{name} {_GOALS[name]:g}" for name, is_met in met.items() if not is_met) or "nothing"
    verdict = "; ".join(f"{row['loader']}: goals missed: {row['missed']}" for row in rows)
    return make_results(used_settings(config), device, rows, verdict)


def _second_half(path: Path) -> dict[str, Any]:
    """Returns the medians over the second half of a run's log; nothing for a run that has none."""
    text = path.read_text() if path.exists() else ""
    complete = text[: text.rfind("\n") + 1].splitlines()  # a run that was killed may have written half of the last
    lines = [line for line in map(json.loads, complete) if "throughput(img/s)" in line]
    names = {"images/s": "throughput(img/s)", "data_wait(%)": "time/data_wait(%)", "mfu(%)": "compute/mfu(%)"}
    half = lines[len(lines) // 2 :]
    return {name: median(line[key] for line in half) for name, key in names.items() if half and key in half[-1]}


PROBES = {"peak": peak, "profile": profile, "syncs": syncs, "exact": exact, "loop": loop}


def main(argv: list[str]) -> int:
    name, *rest = argv
    options, config = parse_run(ProbeOptions, rest, "python3 -m photochrom.bench.gpu_probes " + name)
    if options.data != "unused":
        config = replace(config, data=replace(config.data, val=options.data))
    report(PROBES[name](config, options), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
