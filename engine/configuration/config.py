"""The configuration of a training run: plain frozen data, checked where it is made."""

import operator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from ...pipelines.files import atomic_write
from ...pipelines.loading.augment import Crop

Precision = Literal["auto", "bf16", "fp16", "fp32"]
Compile = Literal["auto", "off", "default", "reduce-overhead", "max-autotune"]
MemoryFormat = Literal["auto", "channels_last", "contiguous"]
Device = Literal["auto", "cuda", "cpu"]


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}={value} is not a positive number")


def check_image_size(size: int, name: str) -> None:
    """Raises ValueError for a size of training and evaluation that cannot be."""
    if size < 16 or size % 8:
        near = max(16, round(size / 8) * 8)
        raise ValueError(
            f"{name}{size} is not a multiple of 8, the network's stride, from 16, SSIM's window, on: try {near}"
        )


@dataclass(frozen=True, kw_only=True)
class ClassSpec:
    """A model or loss to be built: its class, by known name or import path, and its constructor's arguments."""

    class_path: str
    init_args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to train on.

    Args:
        train: Shard set to train on: a folder, or s3://bucket/folder.
        val: Shard set to validate on.
        size: Side of the square crops in pixels, a multiple of 8, at least 16.
        crop: How training cuts a square: random_resized, random, center or squash.
        scale: Share of the photograph's area in a random_resized crop, smallest and largest.
        flip: Mirror one photograph in two.
    """

    train: str
    val: str | None = None
    size: int = 256
    crop: Crop = "random_resized"
    scale: tuple[float, float] = (0.25, 1.0)
    flip: bool = True

    def __post_init__(self) -> None:
        check_image_size(self.size, "data.size=")
        low, high = self.scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"data.scale={list(self.scale)} is no range within (0, 1]: try [0.25, 1]")


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How to load it.

    Args:
        backend: What decodes: dali; torch, without DALI; cached, which keeps in memory what torch has decoded; or
            synthetic, which makes colours up, to see what the network could do. auto takes dali where it is installed,
            and torch for Lab in bytes on a CPU.
        threads: CPU threads that decode, per process; by default all cores shared among this machine's processes.
        prefetch_batches: Batches prepared ahead.
        shuffle_block_size: Neighbouring samples that stay together in training order. 1 shuffles best; larger values
            read more sequentially, for slow disks.
        hw_decoder_load: Share of the JPEGs for a GPU's hardware decoder, where it has one (dali).
        cache_gib: Memory to keep pictures in, per process, in GiB; by default they share half of what is free (cached).
        cache_location: Where to keep them, ram or device, the GPU's own (cached).
    """

    backend: Literal["auto", "dali", "torch", "cached", "synthetic"] = "auto"
    threads: int | None = None
    prefetch_batches: int = 2
    shuffle_block_size: int = 1
    hw_decoder_load: float = 0.9
    cache_gib: float | None = None
    cache_location: Literal["ram", "device"] = "ram"

    def __post_init__(self) -> None:
        if self.threads is not None:
            _positive("loader.threads", self.threads)
        _positive("loader.prefetch_batches", self.prefetch_batches)
        _positive("loader.shuffle_block_size", self.shuffle_block_size)
        if not 0 <= self.hw_decoder_load <= 1:
            raise ValueError(f"loader.hw_decoder_load={self.hw_decoder_load} is no share from 0 to 1")
        if self.cache_gib is not None and not self.cache_gib >= 0:
            raise ValueError(f"loader.cache_gib={self.cache_gib} is negative")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Adam, and how fast it learns when.

    Args:
        lr: Learning rate, the highest that the schedule takes.
        schedule: constant; step, at the milestones; cosine, down to nothing at the last step; or one_cycle, up to lr in
            the first part of the run and down again.
        milestones: Steps after which another rate holds, and which, such as [[200000, 1e-5], [375000, 3e-6]] (step).
        warmup_steps: Steps in which the rate first rises to lr; of one_cycle 0 means three tenths of all.
        lr_scaling: Multiply lr by batch_size / reference_batch_size (linear), or by its square root (sqrt).
        reference_batch_size: Photographs per step for which lr was found (lr_scaling).
        betas: Decay of the two moments.
        weight_decay: L2 penalty on the weights.
        max_grad_norm: Longer gradients, over all weights, are shortened to this length.
    """

    lr: float = 1e-4
    schedule: Literal["constant", "step", "cosine", "one_cycle"] = "constant"
    milestones: list[tuple[int, float]] = field(default_factory=list)
    warmup_steps: int = 0
    lr_scaling: Literal["none", "linear", "sqrt"] = "none"
    reference_batch_size: int = 40
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    max_grad_norm: float | None = None

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"optim.lr={self.lr} is not positive: nothing would be learnt")
        if self.warmup_steps < 0:
            raise ValueError(f"optim.warmup_steps={self.warmup_steps} is negative")
        _positive("optim.reference_batch_size", self.reference_batch_size)
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ValueError(f"optim.max_grad_norm={self.max_grad_norm} is not positive: leave it away to clip nothing")
        steps = [0, *(step for step, _ in self.milestones)]
        if not all(map(operator.lt, steps, steps[1:])) or not all(lr > 0 for _, lr in self.milestones):
            shown = [list(milestone) for milestone in self.milestones]
            raise ValueError(f"optim.milestones={shown} are not steps that rise, each with a positive rate")
        if bool(self.milestones) != (self.schedule == "step"):
            need, have = ("needs", "none") if self.schedule == "step" else ("has no", "some")
            raise ValueError(f"optim.schedule={self.schedule} {need} milestones, and optim.milestones has {have}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optim.betas={list(self.betas)} are not in [0, 1)")
        if not self.weight_decay >= 0:
            raise ValueError(f"optim.weight_decay={self.weight_decay} is negative")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how much at once, and on what.

    Args:
        epochs: Passes over the training set.
        steps: Optimizer steps; when given, it replaces epochs.
        batch_size: Photographs per optimizer step, over all processes.
        grad_accum_steps: Micro-batches per optimizer step, to save memory.
        precision: Of the network's arithmetic; auto takes bf16 on GPUs and CPUs that have it, fp16 on other GPUs, fp32
            on other CPUs. fp32 uses TF32 on GPUs that have it.
        device: Where to train; auto takes the GPU if there is one.
        seed: Of weights, order and augmentation.
        compile: Mode of torch.compile for network and loss, or off; reduce-overhead uses CUDA graphs. auto takes
            default on GPUs where Triton and a C compiler are installed, off elsewhere. Lab is compiled with it.
        memory_format: Of feature maps in memory; auto takes channels_last on GPUs, which CPUs are slower by.
        activation_checkpointing: Computes hidden features again for the gradients: less memory, more time.
        ema: Decay of an average of the weights over the steps, such as 0.999; it is validated and saved as the model.
        max_nonfinite_steps: Consecutive steps with a non-finite loss or gradient to skip before the run stops.
        grad_compression: Travelling gradients as fp16 or bf16, of several processes.
        sync_batchnorm: Statistics of BatchNorm over all processes' photographs, of several GPUs.
        timeout: Seconds that a process waits for another.
    """

    epochs: int = 100
    steps: int | None = None
    batch_size: int = 224
    grad_accum_steps: int = 1
    precision: Precision = "auto"
    device: Device = "auto"
    seed: int = 0
    compile: Compile = "auto"
    memory_format: MemoryFormat = "auto"
    activation_checkpointing: bool = False
    ema: float | None = None
    max_nonfinite_steps: int = 0
    grad_compression: Literal["none", "fp16", "bf16"] = "none"
    sync_batchnorm: bool = False
    timeout: int = 600

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "grad_accum_steps", "timeout"):
            _positive(f"train.{name}", getattr(self, name))
        if self.max_nonfinite_steps < 0:
            raise ValueError(f"train.max_nonfinite_steps={self.max_nonfinite_steps} is negative")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"train.ema={self.ema} is no decay between 0 and 1: try 0.999")
        if self.activation_checkpointing and self.compile not in ("auto", "off"):
            raise ValueError(
                "train.activation_checkpointing=true and train.compile exclude each other: compiled, torch decides"
            )
        if self.steps is not None:
            _positive("train.steps", self.steps)
        if self.seed < 0:
            raise ValueError(f"train.seed={self.seed} is negative")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When to save.

    Args:
        every: Steps between checkpoints.
        keep: Newest checkpoints that are kept; older ones are removed.
        keep_every: Checkpoints of every so many steps are kept for good.
        on_error: What happens when one cannot be written, on a full disk: warn goes on, stop ends the run.
    """

    every: int = 1000
    keep: int = 2
    keep_every: int | None = None
    on_error: Literal["warn", "stop"] = "warn"

    def __post_init__(self) -> None:
        _positive("checkpoint.every", self.every)
        _positive("checkpoint.keep", self.keep)
        if self.keep_every is not None:
            _positive("checkpoint.keep_every", self.keep_every)


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What to report.

    Args:
        every: Steps between lines of metrics.jsonl.
        validate_every: Steps between validations on data.val.
        preview_every: Steps between preview pictures.
        num_previews: Photographs in a preview.
        trackers: Where figures and previews go besides metrics.jsonl: tensorboard, wandb or any other of Accelerate's.
        peak_tflops: What one device can do, in 10^12 operations a second, to tell which share is used (MFU); by default
            what its maker publishes, where that is known.
    """

    every: int = 20
    validate_every: int = 1000
    preview_every: int = 1000
    num_previews: int = 8
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])
    peak_tflops: float | None = None

    def __post_init__(self) -> None:
        for name in ("every", "validate_every", "preview_every", "num_previews"):
            _positive(f"log.{name}", getattr(self, name))
        if self.peak_tflops is not None and not self.peak_tflops > 0:
            raise ValueError(f"log.peak_tflops={self.peak_tflops} is not positive: leave it away where it is not known")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Trains a colorizer.

    Args:
        out: Folder of the run; a run that is there already is continued.
        resume: auto continues the run in out, never refuses to, and the path of a checkpoint starts from that one.
    """

    out: Path
    data: DataConfig
    model: ClassSpec = ClassSpec(class_path="VGGColorizer")
    loss: ClassSpec = ClassSpec(class_path="L2")
    optim: OptimConfig = OptimConfig()
    loader: LoaderConfig = LoaderConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
    resume: str = "auto"


def to_plain_dict(config: Any) -> Any:
    """A configuration as JSON values: what config.yaml and the checkpoints hold."""
    if is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_plain_dict(getattr(config, f.name)) for f in fields(config)}
    if isinstance(config, dict):
        return {key: to_plain_dict(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_plain_dict(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Plain values under dotted names, lists as text."""
    found: dict[str, bool | int | float | str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value if isinstance(value, bool | int | float | str) else str(value)
    return found


def save_yaml(config: Any, path: Path) -> None:
    """Writes the resolved configuration, which `--config` reads back."""
    with atomic_write(path) as file:
        file.write_text(yaml.safe_dump(to_plain_dict(config), sort_keys=False))
