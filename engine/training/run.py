"""A run from its configuration to its summary: checks everything, begins or goes on, trains, writes the results."""

import platform
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ...losses import ColorLoss
from ...models import MODELS, Colorizer
from ...pipelines import CachedLoader
from ...pipelines.loading.base import Loader
from ...pipelines.loading.order import first_batch_of_epoch
from ...pipelines.output_dir import check_holds, claim_output, differences, write_json
from ..checkpoints.checkpoint import (
    CHECKPOINTS,
    MODEL,
    SUMS,
    Checkpoint,
    clear_after,
    list_checkpoints,
    newest_intact,
    open_checkpoint,
)
from ..checkpoints.model_file import load_weights, read_metadata, save_model
from ..configuration.config import ClassSpec, RunConfig, save_yaml, to_plain_dict
from ..configuration.registry import build_loss, build_model, find_class, with_defaults, with_prior
from ..console import LiveLine, console, plural
from ..distributed import make_trainer
from ..loaders import evaluation_loader, training_loader
from .async_checkpoint import AsyncCheckpointer
from .flops import flops_per_image, published_peak
from .lastword import last_word
from .loop import Run, fit
from .metrics_logger import MetricsLogger
from .schedule import scale
from .signals import RunStopped
from .throughput import ThroughputMeter, Totals
from .trackers import Trackers, check_trackers
from .train_step import Trainer
from .unused_settings import without_effect

_LOST = re.compile(
    r"gloo|nccl|time-?d? ?out|connection (closed|reset)|pair closure", re.IGNORECASE
)  # what backends say

CONFIG, SUMMARY = "config.yaml", "summary.json"


def train(config: RunConfig) -> dict[str, Any]:
    """Trains as configured and returns the run's summary.

    Everything that can be checked is checked before anything is written. Raises ValueError with one sentence for what a
    user can mend.
    """
    check_trackers(config.log.trackers)
    accelerator = make_trainer(config.train)
    say = console.print if accelerator.is_main_process else lambda text: None
    # The first process decides for all where the run begins: a save may lie between two looks at the folder.
    (start,) = broadcast_object_list([_starting_point(config, say) if accelerator.is_main_process else None])
    if isinstance(start, ValueError):
        raise start
    run = prepare(config, accelerator, start)
    with ExitStack() as stack:
        stack.enter_context(_explained(run))
        for loader in filter(None, (run.loader, run.validation, run.preview)):
            stack.callback(loader.close)
        if accelerator.is_main_process:
            stack.enter_context(_claim_run(config, run.step, say))
            _check_space(config.out, run.trainer)
            trackers = Trackers(config.log.trackers, config.out, run.step, to_plain_dict(config), say)
            run.log = stack.enter_context(closing(MetricsLogger(config.out, run.step, trackers, say)))
            run.checkpointer = stack.enter_context(closing(AsyncCheckpointer(config.out, config.checkpoint, say)))
            run.line = stack.enter_context(closing(LiveLine(run.step, run.total_steps)))
        accelerator.wait_for_everyone()
        for line in _describe(run):
            say(line)
        stack.enter_context(last_word(config.out, accelerator.process_index, accelerator.num_processes))
        with run.stop.installed(speaks=accelerator.is_main_process):
            stopped = fit(run)
            if run.checkpointer:
                run.checkpointer.wait(needed=bool(stopped))
            if accelerator.is_main_process and not stopped:
                save_model(run.trainer.eval_model.state_dict(), run.metadata(), config.out / MODEL)
                write_json(config.out / SUMMARY, _summary(run))
            accelerator.wait_for_everyone()  # a process that leaves earlier would end those that still write
    accelerator.end_training()
    if stopped:
        raise RunStopped(stopped, f"stopped at step {run.step}, which is saved: the same command goes on from there")
    return _summary(run)


@contextmanager
def _explained(run: Run) -> Iterator[None]:
    """Says in a sentence that another process has gone, which a library says in its own terms."""
    try:
        yield
    except RuntimeError as error:
        if run.accelerator.num_processes == 1 or not (isinstance(error, dist.DistError) or _LOST.search(str(error))):
            raise
        saved = list_checkpoints(run.config.out / CHECKPOINTS)
        raise ValueError(
            f"rank {run.accelerator.process_index} on {platform.node()} has lost another process, which may say why, "
            f"in step {run.step}: the same command goes on from {saved[0].name if saved else 'the beginning'}"
        ) from None


def _starting_point(config: RunConfig, say: Callable[[str], None]) -> Checkpoint | ValueError | None:
    """The checkpoint to go on from, None to begin, or what is wrong, for all processes to raise."""
    try:
        return _checkpoint(config, say)
    except ValueError as error:
        return error


def _checkpoint(config: RunConfig, say: Callable[[str], None]) -> Checkpoint | None:
    if config.resume == "auto":
        return newest_intact(config.out / CHECKPOINTS, say)
    named = Path(config.resume)
    own = config.resume != "never" and named.resolve().is_relative_to(config.out.resolve())
    if list_checkpoints(config.out / CHECKPOINTS) and not own:
        raise ValueError(f"{config.out} already holds a run: name another --out, or go on with --resume auto")
    if config.resume == "never":
        return None
    if not named.is_dir() or not ((named / CHECKPOINTS).is_dir() or (named / SUMS).exists()):
        raise ValueError(f"--resume {named} is neither auto, never nor the folder of a run or a checkpoint")
    if not (named / CHECKPOINTS).is_dir():
        return open_checkpoint(named)
    checkpoint = newest_intact(named / CHECKPOINTS, say)
    if checkpoint is None:
        raise ValueError(f"--resume {named} has no checkpoint yet: name another, or leave --resume away to begin")
    return checkpoint


def prepare(config: RunConfig, accelerator: Accelerator, checkpoint: Checkpoint | None) -> Run:
    """Builds all that the run consists of, at the moment of the checkpoint if there is one."""
    _check_batch(config, accelerator.num_processes)
    loader, validation, preview = _loaders(config, accelerator)
    torch.manual_seed(config.train.seed)
    loss_spec = with_prior(config.loss, loader.data.prior.tolist())
    colorizer, loss = build_model(config.model), build_loss(loss_spec)
    _check_heads(config, colorizer, loss)
    if checkpoint:
        _check_model(config, checkpoint)
        load_weights(colorizer, checkpoint.model)
        loader.load_state_dict(checkpoint.loader)
    total_steps = config.train.steps or first_batch_of_epoch(loader.num_samples, loader.batch_size, config.train.epochs)
    _check_warmup(config, total_steps)
    if checkpoint:
        _check_steps(config, checkpoint, total_steps)

    meter = ThroughputMeter(accelerator.device, _use_per_image(config, colorizer, accelerator))
    trainer = Trainer(colorizer, loss, config, accelerator)
    if checkpoint:
        trainer.load_state_dict(checkpoint.optimizer())
        meter.totals = Totals(**checkpoint.totals)
    return Run(
        config=config,
        accelerator=accelerator,
        trainer=trainer,
        loss_spec=loss_spec,
        loader=loader,
        validation=validation,
        preview=preview,
        meter=meter,
        first_step=checkpoint.step if checkpoint else 0,
        total_steps=total_steps,
        step=checkpoint.step if checkpoint else 0,
    )


def _use_per_image(config: RunConfig, colorizer: Colorizer, accelerator: Accelerator) -> float | None:
    """Share of a second of a device's peak that a photograph takes, or None where the peak is not known."""
    device = accelerator.device
    peak = 1e12 * (config.log.peak_tflops or 0) or published_peak(device, accelerator.mixed_precision)
    return flops_per_image(colorizer, config.data.size, device) / peak if peak else None


_FOR_TRAINING = ("synthetic", "cached")  # loaders of no use where real photographs are wanted, now and then


def _loaders(config: RunConfig, accelerator: Accelerator) -> tuple[Loader, Loader | None, Loader]:
    """What the run trains on, what it validates on if anything, and the first photographs of it, for previews."""
    data, train = config.data, config.train
    if (
        config.loader.backend == "cached"
        and config.loader.cache_location == "device"
        and accelerator.device.type == "cpu"
    ):
        raise ValueError("loader.cache_location=device needs a GPU: use ram")
    seen_once = replace(config.loader, backend="auto") if config.loader.backend in _FOR_TRAINING else config.loader
    loader = training_loader(config, accelerator)
    validation = None
    if data.val is not None:
        validation = evaluation_loader(seen_once, data.val, accelerator, batch_size=train.batch_size, size=data.size)
    shown = (validation or loader).data
    number = min(config.log.num_previews, shown.num_samples)
    preview = evaluation_loader(
        seen_once,
        shown,
        accelerator,
        shared=False,
        batch_size=number,
        size=data.size,
        samples=range(number),
    )
    return loader, validation, preview


def _check_batch(config: RunConfig, num_processes: int) -> None:
    batch, parts = config.train.batch_size, num_processes * config.train.grad_accum_steps
    if batch % parts:
        processes = plural(num_processes, "process", "es")
        raise ValueError(
            f"train.batch_size={batch} does not divide into {processes} x train.grad_accum_steps="
            f"{config.train.grad_accum_steps} equal parts: try {-(-batch // parts) * parts}"
        )


def _check_warmup(config: RunConfig, total_steps: int) -> None:
    if config.optim.warmup_steps >= total_steps:
        raise ValueError(
            f"optim.warmup_steps={config.optim.warmup_steps} leaves nothing of a run of "
            f"{plural(total_steps, 'step')}: shorten it"
        )


def _check_heads(config: RunConfig, colorizer: Colorizer, loss: ColorLoss) -> None:
    if loss.head not in (None, colorizer.head):
        raise ValueError(
            f"loss={config.loss.class_path} needs the head {loss.head!r}, and model={config.model.class_path} has the "
            f"head {colorizer.head!r}: set --model.head {loss.head}, or choose another loss"
        )


def _check_model(config: RunConfig, checkpoint: Checkpoint) -> None:
    """Refuses another network than the checkpoint's: its weights would fit by chance, or its constants not be used."""
    theirs, ours = (_network(spec) for spec in (read_metadata(checkpoint.model).model, config.model))
    if changes := differences(theirs, ours, "model"):
        raise ValueError(f"{checkpoint.folder} is of another network ({', '.join(changes)}): name another --out")


def _check_steps(config: RunConfig, checkpoint: Checkpoint, total_steps: int) -> None:
    """Refuses a run that has nothing left to do; its results are, if it was stopped before they were written."""
    own = checkpoint.folder.resolve().parent == (config.out / CHECKPOINTS).resolve()
    left = total_steps - checkpoint.step
    if left < 0 or (left == 0 and not (own and not _finished(config.out))):
        raise ValueError(
            f"the run of {checkpoint.folder} is complete at step {checkpoint.step}: ask for more with --train.steps, "
            "or name another --out"
        )


def _network(spec: ClassSpec) -> Any:
    """A model's class and arguments, defaults included, but for those that leave what it computes as it is."""
    execution = find_class(spec.class_path, Colorizer, MODELS).execution
    return {name: value for name, value in with_defaults(spec, MODELS).items() if name not in execution}


def _finished(out: Path) -> bool:
    return (out / SUMMARY).exists() and (out / MODEL).exists()


@contextmanager
def _claim_run(config: RunConfig, step: int, say: Callable[[str], None]) -> Iterator[None]:
    """Claims the run's folder, removes what is later than `step` from it, and says which settings have changed."""
    out = config.out
    with claim_output(out, lambda out: check_holds(out, CHECKPOINTS, "run")):
        (out / CHECKPOINTS).mkdir(exist_ok=True)
        before = _read_config(out / CONFIG) if (out / CONFIG).exists() else to_plain_dict(config)
        clear_after(out / CHECKPOINTS, step, say)
        for result in (MODEL, SUMMARY):  # of a shorter run
            (out / result).unlink(missing_ok=True)
        for line in differences(before, to_plain_dict(config)):
            say(f"changed since the run began: {line}")
        save_yaml(config, out / CONFIG)
        yield


def _read_config(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ValueError(f"{path} is damaged: remove it, and the run goes on from its checkpoints") from None


def _check_space(out: Path, trainer: Trainer) -> None:
    """Raises ValueError when the disk has no room for one checkpoint."""
    parameters = sum(parameter.nbytes for parameter in trainer.colorizer.parameters())
    needed = parameters * (4 if trainer.average else 3)  # the weights, and Adam's two moments
    if (free := shutil.disk_usage(out).free) < needed:
        raise ValueError(
            f"a checkpoint takes {needed / 1e6:,.0f} MB, and {out} has {free / 1e6:,.0f} MB left: make room, or name "
            "another --out"
        )


def _describe(run: Run) -> Iterator[str]:
    """What a person should know before a run begins."""
    config, accelerator, device = run.config, run.accelerator, run.accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    precision = {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    yield (
        f"training from step {run.step} to {run.total_steps} on {accelerator.num_processes} x {name} in {precision}, "
        f"by {type(run.loader).__name__}, into {config.out}"
    )
    if isinstance(run.loader, CachedLoader):
        yield f"the cache has room for {100 * run.loader.share:.0f} % of the photographs"
    if (factor := scale(config.optim, run.loader.batch_size)) != 1:
        yield (
            f"learning rate {config.optim.lr:g} x {factor:.4g} = {config.optim.lr * factor:.4g}: batches of "
            f"{run.loader.batch_size} in place of {config.optim.reference_batch_size}, {config.optim.lr_scaling}"
        )
    yield from without_effect(run)


def _summary(run: Run) -> dict[str, Any]:
    totals = run.meter.totals
    return {
        "steps": run.step,
        "epochs": totals.images / run.loader.num_samples,
        "images": totals.images,
        "seconds": round(totals.seconds, 3),
        "images_per_second": round(totals.images / totals.seconds, 2),
        "data_wait_percent": round(100 * totals.waited / totals.seconds, 2),
        "loss": totals.loss,
        "checkpoint": str(run.config.out / MODEL),
    }
