"""Settings of a training run: frozen dataclasses that check their values when they are made."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import yaml

from ...pipelines.files import atomic_write
from ...pipelines.loading.augment import Crop
from ...pipelines.ranges import COUNT, COUNT_OR_ZERO, POSITIVE, SECONDS, SEED, SIDE, WORKERS, check_ranges

Precision = Literal["auto", "bf16", "fp16", "fp32"]
Compile = Literal["auto", "off", "default", "reduce-overhead", "max-autotune"]
CUDA_GRAPH_MODES = ("reduce-overhead", "max-autotune")  # modes that capture CUDA graphs
MemoryFormat = Literal["auto", "channels_last", "contiguous"]
Device = Literal["auto", "cuda", "cpu"]


def check_image_size(size: int, name: str) -> None:
    """Raises ValueError when squares of `size` pixels cannot be used; the message begins with `name`."""
    if not 16 <= size <= SIDE[1] or size % 8:  # the network's stride is 8, and SSIM's window needs 16
        limit = f" and at most {SIDE[1]:,}" if size > SIDE[1] else ""
        near = min(max(16, round(size / 8) * 8), SIDE[1])
        raise ValueError(f"{name}{size} is not a multiple of 8 that is at least 16{limit}: try {near}")


@dataclass(frozen=True, kw_only=True)
class ClassSpec:
    """A model, loss or optimizer to build: its class, by known name or import path, and its constructor's arguments."""

    class_path: str
    init_args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ModelSpec(ClassSpec):
    """A network to train, and the weights that it begins with.

    Args:
        init: Model to begin from, with its settings and weights: a run, a checkpoint, a model file, or a shipped model
            by name. Other settings of the model override its own; another head starts from random weights.
    """

    init: str | None = None


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Training data.

    Args:
        train: Shard set to train on: a folder, or s3://bucket/folder. [A,B] trains on several together.
        weights: Relative number of photographs drawn from each of several sets. Default: as many as each holds.
        val: Shard set to validate on.
        size: Side of the square crops in pixels: a multiple of 8, at least 16.
        crop: How training crops a square. squash resizes the whole photograph without keeping its aspect ratio.
        scale: Smallest and largest share of the photograph's area in a random_resized crop.
        flip: Mirror half of the photographs.
    """

    train: str | list[str]
    weights: list[float] | None = None
    val: str | None = None
    size: int = 256
    crop: Crop = "random_resized"
    scale: tuple[float, float] = (0.25, 1.0)
    flip: bool = True

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError(f"data.train={self.train} names no shard set")
        if isinstance(self.train, str) and self.weights is not None:
            raise ValueError(
                f"data.weights={self.weights} needs several shard sets: set data.train to [{self.train},B]"
            )
        check_image_size(self.size, "data.size=")
        low, high = self.scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"data.scale={list(self.scale)} is not a range within (0, 1]: try [0.25, 1]")


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """Data loader.

    Args:
        backend: Loader to use. dali decodes on the GPU or CPU; torch needs no DALI; cached keeps in memory what torch
            has decoded; synthetic makes up images, to measure the network alone. auto takes dali where it is installed,
            and torch for Lab shards on a CPU.
        threads: Decoding threads per process. Default: the machine's cores, shared among its processes.
        prefetch_batches: Batches to prepare ahead.
        shuffle_block_size: Neighbouring samples that stay together in the training order. 1 shuffles best; larger
            values read more sequentially, for slow disks.
        hw_decoder_load: Share of JPEGs for the GPU's hardware decoder, if it has one (dali).
        cache_gib: Memory for decoded images in GiB per process. Default: the machine's processes share half of the free
            memory (cached).
        cache_location: Where to keep decoded images: ram, or device for the GPU's memory (cached).
    """

    backend: Literal["auto", "dali", "torch", "cached", "synthetic"] = "auto"
    threads: int | None = None
    prefetch_batches: int = 2
    shuffle_block_size: int = 1
    hw_decoder_load: float = 0.9
    cache_gib: float | None = None
    cache_location: Literal["ram", "device"] = "ram"

    def __post_init__(self) -> None:
        check_ranges(self, "loader", threads=WORKERS, prefetch_batches=(1, 1024), shuffle_block_size=COUNT)
        check_ranges(self, "loader", cache_gib=(0, 1e6))
        if not 0 <= self.hw_decoder_load <= 1:
            raise ValueError(f"loader.hw_decoder_load={self.hw_decoder_load} is not between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Learning rate schedule.

    Args:
        type: constant; step, which changes at the milestones; cosine, which falls to 0 at the last step; one_cycle,
            which rises to optim.lr and falls to 0.
        milestones: Steps after which the learning rate changes, with the new rate, such as
            [[200000, 1e-5], [375000, 3e-6]] (step).
        warmup_steps: Steps in which the learning rate rises to optim.lr. With one_cycle, 0 means 30 % of all steps.
        lr_scaling: Multiply the rate by batch_size / reference_batch_size (linear) or by its square root (sqrt).
        reference_batch_size: Batch size for which optim.lr was chosen (lr_scaling).
    """

    type: Literal["constant", "step", "cosine", "one_cycle"] = "constant"
    milestones: list[tuple[int, float]] = field(default_factory=list)
    warmup_steps: int = 0
    lr_scaling: Literal["none", "linear", "sqrt"] = "none"
    reference_batch_size: int = 40

    def __post_init__(self) -> None:
        check_ranges(self, "schedule", reference_batch_size=COUNT, warmup_steps=COUNT_OR_ZERO)
        steps = [0, *(step for step, _ in self.milestones)]
        rates = [lr for _, lr in self.milestones]
        if any(later <= earlier for earlier, later in pairwise(steps)) or not all(0 < lr < math.inf for lr in rates):
            shown = [list(milestone) for milestone in self.milestones]
            raise ValueError(f"schedule.milestones={shown} must be increasing steps with positive learning rates")
        if self.type == "step" and not self.milestones:
            raise ValueError("schedule.type=step needs schedule.milestones, such as [[200000, 1e-5]]")
        if self.milestones and self.type != "step":
            raise ValueError(f"schedule.type={self.type} takes no schedule.milestones: omit them, or set step")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Training loop.

    Args:
        epochs: Passes over the training set.
        steps: Optimizer steps, in place of epochs.
        batch_size: Photographs per optimizer step, over all processes.
        grad_accum_steps: Micro-batches per optimizer step, to save memory.
        precision: Precision of the network. auto: bf16 on GPUs and CPUs that support it, fp16 on other GPUs, fp32 on
            other CPUs. fp32 uses TF32 in convolutions on GPUs that have it.
        device: Device to train on. auto takes the GPU if there is one.
        seed: Seed of weights, order and augmentation.
        compile: Mode of torch.compile for network, loss and Lab conversion, or off. reduce-overhead and max-autotune
            capture CUDA graphs, which DALI would interrupt. auto: default on GPUs where Triton and a C compiler are
            installed, off elsewhere.
        memory_format: Memory format of feature maps. auto: channels_last on GPUs, and on CPUs in bf16.
        activation_checkpointing: Compute hidden features again in the backward pass: less memory, more time.
        ema: Decay of an average of the weights, such as 0.999. The average is validated and saved as the model.
        max_nonfinite_steps: Consecutive steps with a non-finite loss or gradient to skip before the run stops.
        max_grad_norm: Clip the norm of the gradients, over all weights, to this value.
        patience: Validations in a row without a better value of checkpoint.best after which the run ends.
        grad_compression: All-reduce gradients in fp16 or bf16 (several processes only).
        sync_batchnorm: Compute BatchNorm statistics over all processes (several GPUs only).
        timeout: Seconds to wait for another process.
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
    max_grad_norm: float | None = None
    patience: int | None = None
    grad_compression: Literal["none", "fp16", "bf16"] = "none"
    sync_batchnorm: bool = False
    timeout: int = 600

    def __post_init__(self) -> None:
        check_ranges(self, "train", epochs=COUNT, steps=COUNT, batch_size=COUNT, grad_accum_steps=COUNT, patience=COUNT)
        check_ranges(self, "train", max_nonfinite_steps=COUNT_OR_ZERO, max_grad_norm=POSITIVE, seed=SEED)
        check_ranges(self, "train", timeout=(1, SECONDS[1]))
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"train.ema={self.ema} is not between 0 and 1: try 0.999")
        if self.compile in CUDA_GRAPH_MODES and self.grad_accum_steps > 1:
            raise ValueError(
                f"train.compile={self.compile} gives wrong gradients with train.grad_accum_steps="
                f"{self.grad_accum_steps} (github.com/pytorch/pytorch/issues/169545): set train.compile=default, or "
                "grad_accum_steps=1"
            )
        if self.activation_checkpointing and self.compile not in ("auto", "off"):
            raise ValueError(
                f"train.activation_checkpointing=true has no effect with train.compile={self.compile}, where torch "
                "decides what to recompute: set train.compile=off, or omit activation_checkpointing"
            )


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Checkpoints.

    Args:
        every: Steps between checkpoints.
        keep: Newest checkpoints to keep; older ones are removed.
        keep_every: Also keep every checkpoint whose step is a multiple of this number.
        best: Metric of validations, such as rmse_ab, psnr or auc. The checkpoint with its best value is saved and kept,
            and `best` in the run's folder is a link to it.
        on_error: What to do when a checkpoint cannot be written, such as on a full disk: warn and continue, or stop.
    """

    every: int = 1000
    keep: int = 2
    keep_every: int | None = None
    best: str | None = None
    on_error: Literal["warn", "stop"] = "warn"

    def __post_init__(self) -> None:
        check_ranges(self, "checkpoint", every=COUNT, keep=COUNT, keep_every=COUNT)


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """Metrics, validation and previews.

    Args:
        every: Steps between lines of metrics.jsonl.
        validate_every: Steps between validations on data.val.
        preview_every: Steps between preview images.
        num_previews: Photographs in a preview.
        trackers: Where to send metrics and previews besides metrics.jsonl: tensorboard, wandb or another of
            Accelerate's trackers. Default: [tensorboard].
        peak_tflops: Peak of one device in TFLOP/s, to compute its utilization (MFU). Default: the maker's number, if
            known.
    """

    every: int = 20
    validate_every: int = 1000
    preview_every: int = 1000
    num_previews: int = 8
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])
    peak_tflops: float | None = None

    def __post_init__(self) -> None:
        check_ranges(self, "log", every=COUNT, validate_every=COUNT, preview_every=COUNT, num_previews=(1, 1024))
        check_ranges(self, "log", peak_tflops=POSITIVE)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Trains a colorizer on a shard set.

    Args:
        out: Folder of the run.
        model: Network: VGGColorizer, or a class of your own by its import path.
        loss: Loss: L2, SmoothL1, RebalancedCrossEntropy, Focal, or a class of your own.
        optim: Optimizer: Adam or another one of torch.optim, or a class of your own. Adam's default learning
            rate is 1e-4, any other's that of torch.
        resume: auto: continue the run in `out` if there is one. never: start anew. PATH: start from that checkpoint.
    """

    out: Path
    data: DataConfig
    model: ModelSpec = ModelSpec(class_path="VGGColorizer")
    loss: ClassSpec = ClassSpec(class_path="L2")
    optim: ClassSpec = ClassSpec(class_path="Adam", init_args={"lr": 1e-4})
    schedule: ScheduleConfig = ScheduleConfig()
    loader: LoaderConfig = LoaderConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
    resume: str = "auto"


def to_plain_dict(config: Any) -> Any:
    """Returns a configuration as JSON values, as config.yaml and the checkpoints hold it."""
    if is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_plain_dict(getattr(config, f.name)) for f in fields(config)}
    if isinstance(config, dict):
        return {key: to_plain_dict(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_plain_dict(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested values under dotted names: {"train": {"steps": 3}} as {"train.steps": 3}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def save_yaml(config: Any, path: Path) -> None:
    """Writes the resolved configuration, which `--config` reads back."""
    with atomic_write(path) as file:
        file.write_text(yaml.safe_dump(to_plain_dict(config), sort_keys=False))
