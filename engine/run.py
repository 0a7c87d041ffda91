"""A run from its configuration to its summary: checks everything, begins or goes on, trains, writes the results."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator

from ..losses import ColorLoss
from ..models import Colorizer
from ..pipelines import DaliLoader, ShardSet
from ..pipelines.loader import Loader
from ..pipelines.order import first_batch_of_epoch
from .checkpoint import Checkpoint, newest_intact, open_checkpoint
from .config import RunConfig, differences, plain, save_yaml
from .console import LiveLine, console
from .launch import make_accelerator, threads_per_process
from .output import check_writable, write_json
from .runlog import Log, RunLog
from .train import Run, fit
from .weights import build_loss, build_model, load_weights, save_model

CONFIG = "config.yaml"


def train(config: RunConfig) -> dict[str, Any]:
    """Trains as configured and returns the run's summary.

    Everything that can be checked is checked before anything is written. Raises ValueError with one sentence for what a
    user can mend.
    """
    accelerator = make_accelerator(config.train.device, config.train.precision)
    say = console.print if accelerator.is_main_process else lambda text: None
    run = _prepare(config, accelerator, _starting_point(config, say))
    if accelerator.is_main_process:
        _claim(config, say)
        run.log = RunLog(config.out, run.step)
    accelerator.wait_for_everyone()
    say(f"training from step {run.step} to {run.total_steps} on {_describe(accelerator)}, into {config.out}")
    run.line = LiveLine(run.step, run.total_steps, enabled=accelerator.is_main_process)
    try:
        fit(run)
    finally:
        run.line.close()
        run.log.close()
    summary = _summary(run)
    if accelerator.is_main_process:
        save_model(run.colorizer, run.recipe(), config.out / "model.safetensors")
        write_json(config.out / "summary.json", summary)
    accelerator.end_training()
    return summary


def _starting_point(config: RunConfig, say: Callable[[str], None]) -> Checkpoint | None:
    """The checkpoint to go on from, or None to begin."""
    if config.resume == "auto":
        return newest_intact(config.out / "checkpoints", say)
    if config.resume == "never":
        if (config.out / CONFIG).exists():
            raise ValueError(f"{config.out} already holds a run: name another --out, or go on with --resume auto")
        return None
    named = Path(config.resume)
    if not named.is_dir():
        raise ValueError(f"--resume {named} is neither auto, never nor the folder of a run or a checkpoint")
    if (named / "checkpoints").is_dir():
        return newest_intact(named / "checkpoints", say)
    return open_checkpoint(named)


def _prepare(config: RunConfig, accelerator: Accelerator, checkpoint: Checkpoint | None) -> Run:
    """Builds all that the run consists of, at the moment of the checkpoint if there is one."""
    _check_batch(config, accelerator.num_processes)
    loader = _training_loader(config, accelerator)
    validation = _validation_loader(config, accelerator)
    preview = _preview_loader(config, validation or loader, accelerator)
    torch.manual_seed(config.train.seed)
    colorizer, loss = build_model(config.model), build_loss(config.loss)
    _check_heads(config, colorizer, loss)
    if checkpoint:
        load_weights(colorizer, checkpoint.model)
        loader.load_state_dict(checkpoint.loader)
    step = checkpoint.step if checkpoint else 0
    total_steps = config.train.steps or first_batch_of_epoch(loader.num_samples, loader.batch_size, config.train.epochs)
    if step >= total_steps:
        raise ValueError(f"the run in {config.out} is complete at step {step}: ask for more with --train.steps")

    model, optimizer = accelerator.prepare(colorizer, _optimizer(config, colorizer, accelerator))
    if checkpoint:
        _restore(optimizer, accelerator, checkpoint)
    return Run(
        config=config,
        accelerator=accelerator,
        colorizer=colorizer,
        model=model,
        loss=loss,
        optimizer=optimizer,
        loader=loader,
        validation=validation,
        preview=preview,
        log=Log(),
        line=LiveLine(step, total_steps, enabled=False),
        first_step=step,
        total_steps=total_steps,
        step=step,
    )


def _optimizer(config: RunConfig, colorizer: Colorizer, accelerator: Accelerator) -> torch.optim.Optimizer:
    return torch.optim.Adam(
        colorizer.parameters(),
        lr=config.optim.lr,
        betas=config.optim.betas,
        weight_decay=config.optim.weight_decay,
        fused=accelerator.device.type == "cuda",
    )


def _restore(optimizer: torch.optim.Optimizer, accelerator: Accelerator, checkpoint: Checkpoint) -> None:
    """The moments as they were, and the scale of fp16 losses; settings such as the learning rate are the new ones."""
    state = checkpoint.optimizer(accelerator.device)
    now = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state["optimizer"])
    for group, settings in zip(optimizer.param_groups, now, strict=True):
        group.update(settings)
    if accelerator.scaler and state["scaler"]:
        accelerator.scaler.load_state_dict(state["scaler"])


def _training_loader(config: RunConfig, accelerator: Accelerator) -> Loader:
    data = config.data
    return _loader(
        config,
        data.train,
        accelerator,
        batch_size=config.train.batch_size,
        train=True,
        seed=config.train.seed,
        crop=data.crop,
        scale=data.scale,
        flip=data.flip,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )


def _validation_loader(config: RunConfig, accelerator: Accelerator) -> Loader | None:
    if config.data.val is None:
        return None
    return _loader(
        config,
        config.data.val,
        accelerator,
        batch_size=config.train.batch_size,
        train=False,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )


def _preview_loader(config: RunConfig, shown: Loader, accelerator: Accelerator) -> Loader:
    """One batch of the first photographs, for the first process."""
    number = min(config.log.num_previews, shown.num_samples)
    return _loader(config, shown.data, accelerator, batch_size=number, train=False, samples=range(number))


def _loader(config: RunConfig, data: Path | ShardSet, accelerator: Accelerator, **settings: Any) -> Loader:
    return DaliLoader(
        data,
        size=config.data.size,
        device=accelerator.device,
        threads=config.loader.threads or threads_per_process(),
        prefetch=config.loader.prefetch,
        **settings,
    )


def _check_batch(config: RunConfig, num_processes: int) -> None:
    batch, parts = config.train.batch_size, num_processes * config.train.accumulate
    if batch % parts:
        raise ValueError(
            f"train.batch_size={batch} does not divide into {num_processes} processes x train.accumulate="
            f"{config.train.accumulate} equal parts: try {-(-batch // parts) * parts}"
        )


def _check_heads(config: RunConfig, colorizer: Colorizer, loss: ColorLoss) -> None:
    if loss.head != colorizer.head:
        raise ValueError(
            f"loss={config.loss.class_path} scores networks with the head {loss.head!r}, and model="
            f"{config.model.class_path} has the head {colorizer.head!r}: choose another loss or another head"
        )


def _claim(config: RunConfig, say: Callable[[str], None]) -> None:
    """Makes the run's folder, or says what has changed in the one that is there."""
    out = config.out
    try:
        if out.is_dir() and any(out.iterdir()) and not (out / CONFIG).exists():
            raise ValueError(f"{out} is not empty and holds no run: name a new folder with --out")
        out.mkdir(parents=True, exist_ok=True)
        check_writable(out)
        if (out / CONFIG).exists():
            for line in differences(_read_config(out / CONFIG), plain(config)):
                say(f"changed since the run began: {line}")
        save_yaml(config, out / CONFIG)
    except OSError as error:
        raise ValueError(f"cannot write to {out}: {error.strerror}") from None


def _read_config(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ValueError(f"{path} is damaged: remove it, and the run goes on") from None


def _describe(accelerator: Accelerator) -> str:
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    precision = {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    return f"{accelerator.num_processes} x {name} in {precision}"


def _summary(run: Run) -> dict[str, Any]:
    images = run.step * run.loader.batch_size
    return {
        "steps": run.step,
        "epochs": images / run.loader.num_samples,
        "images": images,
        "seconds": round(run.meter.seconds, 3),
        "images_per_second": round(run.meter.images / run.meter.seconds, 2),
        "data_wait_percent": round(100 * run.meter.waited / run.meter.seconds, 2),
        "loss": run.last_loss,
        "checkpoint": str(run.config.out / "model.safetensors"),
    }
