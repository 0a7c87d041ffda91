"""Measures variants of the training step in turn on one batch that is on the device.

The first variant is a training script's without settings, except that TF32 and cuDNN's choice of algorithms hold for
all variants.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import torch

from ...engine.configuration.config import Compile, MemoryFormat, Precision, RunConfig, to_plain_dict
from ...engine.configuration.registry import build_loss, build_model, with_prior
from ...engine.console import console, plural
from ...engine.distributed import make_training_accelerator, resolve_compile, resolve_device, resolve_precision
from ...engine.training.flops import flops_per_image, published_peak
from ...engine.training.trainer import Trainer
from ...losses import ColorLoss
from ...losses.quantization import ab_bins
from ...models.vgg import Dilation
from ...pipelines import LabBatch
from ...pipelines.loading.synthetic_loader import random_lab
from ...pipelines.output_dir import write_json
from ...pipelines.system import is_out_of_memory
from ..common.options import used_settings
from ..common.results import Results, make_results
from ..common.timing import MIN_ROUNDS, Clock, collect, interleave, throughputs
from .command import StepOptions

CONFIGURED, PARTS = "as configured", ("forward", "backward", "optimizer")

_CPU_VARIANTS = [
    "fp32",
    "fp32 channels_last",
    "fp32 channels_last space_to_batch",
    "fp32 channels_last activation_checkpointing",
]
_CPU_BF16_VARIANTS = ["bf16", "bf16 channels_last"]
_GPU_VARIANTS = [
    "fp32",
    "fp32 channels_last",
    "bf16",
    "bf16 channels_last",
    "bf16 channels_last space_to_batch",
    "bf16 channels_last default",
    "bf16 channels_last default space_to_batch",
    "bf16 channels_last reduce-overhead space_to_batch",
    "bf16 channels_last activation_checkpointing",
    "fp16 channels_last",
    "fp16 channels_last space_to_batch",
]
_MAX_CPU_BATCH = 4  # by default
_WORDS: dict[str, tuple[str, Any]] = {  # of a variant: the setting and its value
    **{
        word: (setting, word)
        for setting, kind in {
            "precision": Precision,
            "memory_format": MemoryFormat,
            "dilation": Dilation,
            "compile": Compile,
        }.items()
        for word in get_args(kind)
        if word != "auto"
    },
    "activation_checkpointing": ("activation_checkpointing", True),
}


def measure(config: RunConfig, options: StepOptions) -> Results:
    """Returns the throughput of each variant at each batch size, the fastest, and the largest batch that fits."""
    device = resolve_device(config.train.device)
    if options.find_max_batch and device.type == "cpu":
        raise ValueError("--find-max-batch fills a GPU's memory, and this device is a CPU: leave it out")
    variants = options.variants or _default_variants(device)
    runs = {name: apply_variant(config, name) for name in variants} | {CONFIGURED: config}
    max_default = config.train.batch_size if device.type == "cuda" else _MAX_CPU_BATCH
    sizes = options.batch_sizes or [min(config.train.batch_size, max_default)]
    skipped: dict[str, str] = {}
    console.print(f"{plural(len(runs), 'variant')} in turn, for {options.seconds:g} s or three rounds ...")
    flops = flops_per_image(build_model(config.model), config.data.size, device)
    results = make_results(config, device, [], "") | {
        "settings": used_settings(config, **to_plain_dict(options)),
        "skipped": skipped,
        "largest_batch": {},
    }
    complete: list[dict[str, Any]] = []  # of the sizes before

    def save(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            peak = 1e12 * (config.log.peak_tflops or 0) or published_peak(device, row.pop("arithmetic"))
            row["mfu(%)"] = 100 * flops * row["median(img/s)"] / peak if peak else None
        results["rows"] = complete + rows
        best = max(results["rows"], key=lambda row: row["median(img/s)"])
        results["verdict"] = (
            f"fastest: {best['variant']} with batches of {best['batch_size']}, {best['ratio']:.2f} times as fast as "
            f"{best['reference']}; {flops / 1e9:.1f} GFLOP per photograph"
        )
        if options.out:
            write_json(options.out, results)

    for size in sizes:
        _measure_size(runs, size, options.seconds, len(sizes), device, skipped, save)
        complete = results["rows"]
    if not complete:
        variant, reason = next(iter(skipped.items()))
        raise ValueError(f"no variant could be measured; {variant}: {reason}")
    if options.find_max_batch:
        fastest = max(complete, key=lambda row: row["median(img/s)"])["variant"]
        results["largest_batch"] = _max_batches(runs, (CONFIGURED, fastest), device)
    return results


def _default_variants(device: torch.device) -> list[str]:
    if device.type == "cuda":
        return _GPU_VARIANTS
    return _CPU_VARIANTS + _CPU_BF16_VARIANTS * (resolve_precision("auto", device.type) == "bf16")


def _measure_size(
    runs: dict[str, RunConfig],
    batch_size: int,
    seconds: float,
    num_sizes: int,
    device: torch.device,
    skipped: dict[str, str],
    save: Callable[[list[dict[str, Any]]], None],
) -> None:
    """Measures the variants that fit into their share of the `seconds` for all sizes; adds the others to `skipped`.

    `save` is called with a row for each after each variant's first steps and each round: what is stopped loses nothing.
    """
    torch.compiler.reset()  # or another size would be compiled with dynamic shapes
    steps: dict[str, Step] = {}
    for name, run in runs.items():
        step = try_step(run, batch_size, device, seconds=seconds, num_turns=num_sizes * len(runs) * (MIN_ROUNDS + 1))
        if isinstance(step, str):
            skipped[f"{name}, batches of {batch_size}"] = step
        else:
            steps[name] = step
            save(list(_rows(steps, {name: [step.seconds_once] for name, step in steps.items()}, batch_size)))
    if not steps:
        return
    interleaved = interleave({name: step.run for name, step in steps.items()}, device)
    times = collect(interleaved, seconds / num_sizes, lambda times: save(list(_rows(steps, times, batch_size))))
    for _ in range(MIN_ROUNDS):
        for step in steps.values():
            step.laps.append(step.parts())
    save(list(_rows(steps, times, batch_size)))


def _rows(steps: dict[str, "Step"], times: dict[str, list[float]], batch_size: int) -> Iterator[dict[str, Any]]:
    medians = {name: statistics.median(values) for name, values in times.items()}
    reference = next(iter(medians))
    for name, values in times.items():
        yield {
            "variant": name,
            "batch_size": batch_size,
            **throughputs([value / batch_size for value in values]),
            "ratio": medians[reference] / medians[name],
            "reference": reference,
            "memory/peak(GiB)": steps[name].memory,
            **{
                f"{part}(ms)": statistics.median(laps[part] for laps in steps[name].laps)
                for part in (steps[name].laps or [{}])[0]
            },
            "num_rounds": len(values),
            "arithmetic": steps[name].precision,
        }


def loss_without_set(run: RunConfig) -> ColorLoss:
    """Returns the run's loss with a uniform prior: the weights of the bins do not change its time."""
    return build_loss(with_prior(run.loss, [1 / len(ab_bins())] * len(ab_bins())))


class Step:
    """A training step that can be repeated on one batch. Raises ValueError if this machine cannot run it."""

    def __init__(self, run: RunConfig, batch_size: int, device: torch.device) -> None:
        train = replace(run.train, batch_size=batch_size, grad_accum_steps=1)
        accelerator = make_training_accelerator(train)
        torch.manual_seed(0)
        self.trainer = Trainer(build_model(run.model), loss_without_set(run), replace(run, train=train), accelerator)
        L, ab = random_lab(batch_size, run.data.size, seed=0, device=device)
        self.batch = LabBatch(L=L, ab=ab, index=torch.arange(batch_size))
        self._device, self._compiled = device, resolve_compile(train, device) != "off"
        self.precision: str = accelerator.mixed_precision
        self.memory: float | None = None
        self.seconds_once = math.nan  # of the second step: the first one compiles
        self.laps: list[dict[str, float]] = []  # of its parts

    def run(self) -> None:
        self.trainer.train_step(self.batch, step=0, lr=1e-5)

    def warm_up(self) -> None:
        """Runs the first step, and measures its peak memory besides the weights, in GiB."""
        if self._device.type != "cuda":
            self.run()
            return
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        self.run()
        self.memory = (torch.cuda.max_memory_allocated(self._device) - before) / 2**30

    def seconds(self) -> float:
        """Returns the seconds of one step."""
        clock = Clock(self._device)
        self.run()
        return clock.lap()

    def parts(self) -> dict[str, float]:
        """Returns the milliseconds of each part of a step, nothing for a compiled step; forward includes the loss.

        Hooks wait for the device between the parts, so parts do not overlap as they do otherwise.
        """
        if self._compiled:
            return {}
        clock = Clock(self._device)
        laps: list[float] = []
        hooks = (
            self.trainer.loss.register_forward_hook(lambda *_: laps.append(clock.lap())),
            self.trainer.optimizer.register_step_pre_hook(lambda *_: laps.append(clock.lap())),
        )
        clock.lap()
        self.run()
        laps.append(clock.lap())
        for hook in hooks:
            hook.remove()
        return {part: 1e3 * lap for part, lap in zip(PARTS, laps, strict=True)}


def try_step(
    run: RunConfig, batch_size: int, device: torch.device, *, seconds: float = math.inf, num_turns: int = 1
) -> Step | str:
    """Returns a step that has run twice and fits `num_turns` times into `seconds`, or the reason why it cannot."""
    try:
        step = Step(run, batch_size, device)
        step.warm_up()
        step.seconds_once = step_seconds = step.seconds()
    except (ValueError, RuntimeError, MemoryError) as error:  # the device or the compiler does not support it
        if is_out_of_memory(error):
            torch.cuda.empty_cache()
            return "it does not fit into the device's memory"
        return f"{error}".strip().splitlines()[0]
    if step_seconds * num_turns <= seconds:
        return step
    needed = math.ceil(1.1 * step_seconds * num_turns)  # the next time, a step may take longer
    return f"a step takes {step_seconds:.1f} s: give --seconds {needed} or more to measure it"


def _max_batches(runs: dict[str, RunConfig], names: Iterable[str], device: torch.device) -> dict[str, int]:
    """Returns the largest batch that fits, by variant."""

    def fits(run: RunConfig, number: int) -> bool:
        torch.compiler.reset()
        does_fit = isinstance(try_step(run, number, device), Step)
        torch.cuda.empty_cache()
        return does_fit

    return {name: max_batch(partial(fits, runs[name])) for name in dict.fromkeys(names)}


def max_batch(fits: Callable[[int], bool]) -> int:
    """Returns the largest multiple of 8 up to 16,384 that `fits`, within an eighth; 0 if 8 do not fit."""
    good, bad = 0, 8
    while bad <= 1 << 14 and fits(bad):
        good, bad = bad, 2 * bad
    while bad - good > max(8, good // 8):
        middle = (good + bad) // 16 * 8
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def apply_variant(config: RunConfig, name: str) -> RunConfig:
    """Returns the run with the settings that a variant names. Raises ValueError for an unknown word."""
    chosen: dict[str, Any] = {
        "precision": "fp32",
        "memory_format": "contiguous",
        "compile": "off",
        "activation_checkpointing": False,
    }
    if config.model.class_path == "VGGColorizer":
        chosen["dilation"] = "native"
    for word in name.split():
        if word not in _WORDS:
            raise ValueError(f"--variants has the unknown word {word!r}: known are {', '.join(_WORDS)}")
        setting, value = _WORDS[word]
        chosen[setting] = value
    model = {name: chosen.pop(name) for name in ("dilation",) if name in chosen}
    return replace(
        config,
        model=replace(config.model, init_args={**config.model.init_args, **model}),
        train=replace(config.train, **chosen),
    )


def notes(results: Results) -> Iterator[str]:
    """Yields the largest batches, and the variants that were not measured."""
    for name, number in results["largest_batch"].items():
        yield f"the largest batch that fits, {name}: {number} (to an eighth)"
    for name, reason in results["skipped"].items():
        yield f"not measured: {name}: {reason}"
