"""Checks of a run before anything is written; each raises ValueError with one sentence that says what to change."""

import inspect
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ...losses import ColorLoss
from ...models import MODELS, Colorizer
from ...pipelines import DaliLoader
from ...pipelines.loading.base import Loader
from ...pipelines.output_dir import differences
from ...pipelines.structured import validated
from ..checkpoints.checkpoint import CHECKPOINTS, MODEL, Checkpoint
from ..checkpoints.model_file import read_metadata, state_dict_mismatches
from ..configuration.config import CUDA_GRAPH_MODES, ClassSpec, RunConfig, to_plain_dict
from ..configuration.optimizers import OPTIMIZERS
from ..configuration.parser import alternatives
from ..configuration.registry import build_optimizer, find_class
from ..console import plural
from ..evaluation.summary import VALIDATION_METRICS
from .best import DEFAULT_METRIC, BestValidation
from .optimizer_state import GROUPS, OPTIMIZER, WEIGHTS, optimizer_state_dict

SUMMARY = "summary.json"


def check_batch_size(config: RunConfig, num_processes: int) -> None:
    """Raises ValueError when a batch does not divide evenly."""
    batch_size, parts = config.train.batch_size, num_processes * config.train.grad_accum_steps
    if batch_size % parts:
        processes = plural(num_processes, "process", "es")
        raise ValueError(
            f"train.batch_size={batch_size} is not a multiple of {parts}, {processes} x train.grad_accum_steps="
            f"{config.train.grad_accum_steps}: try {-(-batch_size // parts) * parts}"
        )


def check_cuda_graphs(config: RunConfig, loader: Loader) -> None:
    """Raises ValueError for CUDA graphs beside DALI, whose threads make calls that end their capture (DALI #6449)."""
    if config.train.compile in CUDA_GRAPH_MODES and isinstance(loader, DaliLoader) and loader.device.type == "cuda":
        raise ValueError(
            f"train.compile={config.train.compile} captures CUDA graphs, and DALI's threads interrupt that: set "
            "--train.compile default, or --loader.backend torch"
        )


def check_warmup(config: RunConfig, total_steps: int) -> None:
    """Raises ValueError when the warm-up is as long as the run."""
    if config.schedule.warmup_steps >= total_steps:
        raise ValueError(
            f"schedule.warmup_steps={config.schedule.warmup_steps} leaves nothing of a run of "
            f"{plural(total_steps, 'step')}: shorten it"
        )


def check_head(config: RunConfig, colorizer: Colorizer, loss: ColorLoss) -> None:
    """Raises ValueError when the loss cannot score what the network predicts."""
    if loss.head not in (None, colorizer.head):
        raise ValueError(
            f"loss={config.loss.class_path} needs the head {loss.head!r}, and model={config.model.class_path} has the "
            f"head {colorizer.head!r}: set --model.head {loss.head}, or choose another loss"
        )


def check_network(config: RunConfig, checkpoint: Checkpoint) -> None:
    """Raises ValueError for another network than the checkpoint's, even if the weights happen to fit."""
    before, now = (network_settings(spec) for spec in (read_metadata(checkpoint.model).model, config.model))
    if changes := differences(before, now, "model"):
        raise ValueError(f"{checkpoint.folder} is of another network ({', '.join(changes)}): name another --out")


def check_init(config: RunConfig, checkpoint: Checkpoint) -> None:
    """Raises ValueError when a resumed run is to begin from other weights than it did."""
    began = read_metadata(checkpoint.model).provenance.get("init")
    name = began["name"] if began else "random weights"
    if config.model.init not in (None, name):
        raise ValueError(
            f"the run of {checkpoint.folder} began from {name}, not from --model.init {config.model.init}: name "
            "another --out, or omit --model.init"
        )


def network_settings(spec: ClassSpec) -> Any:
    """Returns a model's class and arguments, defaults included, without those that only change how it is computed."""
    cls = find_class(spec.class_path, Colorizer, MODELS)
    arguments = {name: value for name, value in _arguments(cls, spec).items() if name not in cls.execution}
    return {"class_path": spec.class_path, **arguments}


def check_optimizer_fits(config: RunConfig, checkpoint: Checkpoint) -> None:
    """Raises ValueError for another optimizer than the checkpoint's, or one that keeps another state."""
    before, now = _optimizer_of(checkpoint), config.optim
    advice = f"resume with the same, or begin another run with --model.init {checkpoint.folder}"
    if before.class_path != now.class_path:
        raise ValueError(
            f"{checkpoint.folder} has the state of optim={before.class_path}, which optim={now.class_path} cannot use: "
            f"{advice}"
        )
    if before.init_args != now.init_args and _state_keys(before) != _state_keys(now):
        cls = find_class(now.class_path, Optimizer, OPTIMIZERS)
        changes = ", ".join(differences(_arguments(cls, before), _arguments(cls, now), "optim"))
        raise ValueError(
            f"{checkpoint.folder} has the state of another {now.class_path} ({changes}), which this one "
            f"cannot use: {advice}"
        )


def _optimizer_of(checkpoint: Checkpoint) -> ClassSpec:
    """Returns the optimizer of a checkpoint's run."""
    return validated(
        ClassSpec, read_metadata(checkpoint.model).config.get("optim"), f"the optimizer of {checkpoint.model}"
    )


def _state_keys(spec: ClassSpec) -> set[str]:
    """Returns what an optimizer keeps for the weight and the bias of a convolution."""
    return set(_state_after_a_step(spec, nn.ParameterDict({"weight": torch.zeros(1, 1, 1, 1), "bias": torch.zeros(1)})))


def _state_after_a_step(spec: ClassSpec, network: nn.Module) -> dict[str, Any]:
    """Returns what an optimizer keeps for a network, by a step that it takes."""
    optimizer = build_optimizer(spec, network.parameters())
    for weight in network.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    return optimizer_state_dict(optimizer, network)


def check_training_state(config: RunConfig, colorizer: Colorizer, state: dict[str, Any]) -> None:
    """Raises ValueError when a checkpoint's weights or optimizer state have other names or shapes than the run's."""
    expected = {f"{WEIGHTS}{name}": tensor for name, tensor in colorizer.state_dict().items()}
    if not any(name.startswith(WEIGHTS) for name in state):
        expected = {}
    has_values = {name.rpartition("/")[0] for name in state}  # a weight has none before its first update
    for name, weight in colorizer.named_parameters():
        if f"{OPTIMIZER}{name}" in has_values:
            network = nn.ParameterDict({"weight": torch.zeros_like(weight, device="cpu")})
            values = _state_after_a_step(config.optim, network).items()
            expected |= {f"{OPTIMIZER}{name}/{key.rpartition('/')[2]}": value for key, value in values if key != GROUPS}
    here = {name: value for name, value in expected.items() if isinstance(value, Tensor)}
    there = {name: value for name, value in state.items() if name in here and isinstance(value, Tensor)}
    faults = state_dict_mismatches(there, here)
    steps = {name: value.item() for name, value in there.items() if name.endswith("/step") and not faults}
    faults = faults or ", ".join(f"{name} is {step:g}" for name, step in steps.items() if not step >= 0)
    if faults:
        raise ValueError(f"the checkpoint's training state does not fit this run: {faults}")


def _arguments(cls: type, spec: ClassSpec) -> dict[str, Any]:
    """Returns the arguments of a class as JSON values, defaults included."""
    bound = inspect.signature(cls).bind(**spec.init_args)
    bound.apply_defaults()
    arguments: dict[str, Any] = to_plain_dict(bound.arguments)
    return arguments


def check_best(config: RunConfig) -> None:
    """Raises ValueError when checkpoint.best or train.patience lacks a metric or photographs to compare by."""
    metric, patience = config.checkpoint.best, config.train.patience
    if patience is not None and metric is None:
        raise ValueError(f"train.patience={patience} needs a metric: add --checkpoint.best {DEFAULT_METRIC}")
    if metric is not None and config.data.val is None:
        raise ValueError(f"checkpoint.best={metric} needs photographs to validate on: add --data.val SHARDS")
    if metric is not None and metric not in VALIDATION_METRICS:
        known = alternatives(metric, VALIDATION_METRICS)
        raise ValueError(f"checkpoint.best={metric} is not a metric that has a best value{known}")


def check_steps_left(config: RunConfig, checkpoint: Checkpoint, total_steps: int, best: BestValidation | None) -> None:
    """Raises ValueError when a run has taken more steps, or all steps in another folder."""
    is_own = checkpoint.folder.resolve().parent == (config.out / CHECKPOINTS).resolve()
    is_exhausted = best is not None and best.is_exhausted(config.train.patience)
    steps_left = 0 if is_exhausted else total_steps - checkpoint.step
    if steps_left < 0 or (steps_left == 0 and not is_own):
        raise ValueError(
            f"the run of {checkpoint.folder} is complete at step {checkpoint.step}: ask for more with "
            f"{'--train.patience' if is_exhausted else '--train.steps'}, or name another --out"
        )


def has_results(out: Path) -> bool:
    """True where a run has been finished; an interrupted one has none of its last results."""
    return (out / SUMMARY).exists() and (out / MODEL).exists()


def check_disk_space(out: Path, colorizer: Colorizer, *, has_ema: bool) -> None:
    """Raises ValueError when the disk has no room for one checkpoint: weights, two moments, averaged weights."""
    weights = sum(parameter.nbytes for parameter in colorizer.parameters())
    needed = weights * (4 if has_ema else 3)
    if (free := shutil.disk_usage(out).free) < needed:
        raise ValueError(
            f"a checkpoint takes {needed / 1e6:,.0f} MB, and {out} has {free / 1e6:,.0f} MB left: make room, or name "
            "another --out"
        )
