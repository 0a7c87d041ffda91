"""The training loop."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..losses import ColorLoss
from ..models import Colorizer
from ..pipelines import LabBatch
from ..pipelines.hashing import random_bits
from ..pipelines.loader import Loader
from .checkpoint import CHECKPOINTS, save_checkpoint
from .config import RunConfig, Spec, plain
from .console import Line
from .doctor import versions
from .launch import share_buffers
from .meter import Meter
from .preview import sheet, triptychs
from .runlog import Log
from .score import predictions, score
from .weights import Recipe, save_model


@dataclass(kw_only=True)
class Run:
    """Everything that a training run consists of."""

    config: RunConfig
    accelerator: Accelerator
    colorizer: Colorizer
    model: nn.Module  # the colorizer as Accelerate wrapped it: the same weights
    loss: ColorLoss
    loss_spec: Spec  # with the prior that it has been made with
    optimizer: torch.optim.Optimizer
    loader: Loader
    validation: Loader | None
    preview: Loader
    meter: Meter
    first_step: int
    total_steps: int
    step: int
    log: Log = field(default_factory=Log)
    line: Line = field(default_factory=Line)

    def due(self, every: int) -> bool:
        """Whether that which happens every so many steps, and at the end, happens now."""
        return self.step > self.first_step and (self.step % every == 0 or self.step == self.total_steps)

    def recipe(self) -> Recipe:
        """How the model was made, as of now."""
        return Recipe(
            model=self.config.model,
            loss=self.loss_spec,
            size=self.config.data.size,
            step=self.step,
            data=self.loader.data.digest,
            config=plain(self.config),
            versions=versions(),
        )


def fit(run: Run) -> None:
    """Trains from run.step to run.total_steps. Raises ValueError when the loss or a weight is no number any more."""
    every = run.config.log
    batches = endless(run.loader)
    run.meter.start()
    while True:
        if run.due(every.every) or run.due(run.config.checkpoint.every):
            report(run)  # before a checkpoint too: it stops the run if the weights have become useless
        if run.due(every.preview_every):
            show(run)
        if run.due(every.validate_every):
            validate(run)
        if run.due(run.config.checkpoint.every):
            save(run)
        if run.step >= run.total_steps:
            break
        with run.meter.waiting():
            batch = next(batches)  # decoded while the device was at work on the step before
        run.meter.count(training_step(run, batch), run.loader.batch_size)
        run.step += 1
        run.line.step(run.step)


def endless(loader: Loader) -> Iterator[LabBatch]:
    """The loader's batches, epoch after epoch."""
    while True:
        yield from loader


def training_step(run: Run, batch: LabBatch) -> dict[str, Tensor]:
    """One optimizer step on this process's share of a batch; returns its mean loss and terms, still on the device."""
    # A step's randomness, for models that have any, is a function of (seed, step, rank): a resumed run repeats it.
    torch.manual_seed(int(random_bits(run.config.train.seed, run.step, run.accelerator.process_index)[0] >> 1))
    run.model.train()
    run.loss.train()
    rate = run.config.optim.rate(run.step)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    parts = batch.split(run.config.train.accumulate)
    means: dict[str, Tensor] = {}
    for part in parts:
        # Gradients travel between processes once, with the last part.
        with nullcontext() if part is parts[-1] else run.accelerator.no_sync(run.model):
            loss = run.loss(run.model(part.L), part)
            run.accelerator.backward(loss.total / len(parts))
        for name, value in {"loss": loss.total, **loss.terms}.items():
            means[name] = means.get(name, 0) + value.detach() / len(parts)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    return means


def report(run: Run) -> None:
    """Logs the mean over the steps since the last report."""
    means = run.meter.read(run.accelerator)
    loss = run.meter.totals.loss
    if not math.isfinite(loss):
        raise _diverged(f"the loss became {loss} within the {run.config.log.every} steps", run)
    values = {
        **means,
        "epoch": run.step * run.loader.batch_size / run.loader.num_samples,
        "optim/lr": run.config.optim.rate(run.step - 1),
    }
    if run.accelerator.device.type == "cuda":
        values["memory/peak(GiB)"] = torch.cuda.max_memory_allocated() / 2**30
    run.log.metrics(values, run.step)
    run.line.show(
        run.step,
        f"loss {loss:.4g}  {means['throughput(img/s)']:.1f} img/s  data wait {means['time/data_wait(%)']:.0f} %",
    )


def show(run: Run) -> None:
    """Saves a picture of how the first photographs are colorized now."""
    if not run.accelerator.is_main_process:
        return
    with run.meter.paused():
        for batch, ab in predictions(run.colorizer, run.preview):
            run.log.preview(sheet(triptychs(batch, ab)), run.step)


def validate(run: Run) -> None:
    """Logs the figures of the validation set, if there is one."""
    if run.validation is None:
        return
    with run.meter.paused():
        share_buffers(run.colorizer)
        figures = score(run.colorizer, run.loss, run.validation).summary()
    run.log.metrics({f"val/{name}": value for name, value in figures.items()}, run.step)


def save(run: Run) -> None:
    """Saves a checkpoint. Raises ValueError when a weight is no number any more."""
    if faults := [name for name, tensor in run.colorizer.state_dict().items() if not tensor.isfinite().all()]:
        raise _diverged(f"{faults[0]} and {len(faults) - 1} more tensors of the network became infinite or nan", run)
    if not run.accelerator.is_main_process:
        return
    scaler = run.accelerator.scaler
    with run.meter.paused():
        save_checkpoint(
            run.config.out / CHECKPOINTS,
            run.step,
            write_model=lambda path: save_model(run.colorizer, run.recipe(), path),
            optimizer={"optimizer": run.optimizer.state_dict(), "scaler": scaler.state_dict() if scaler else None},
            loader=run.loader.state_dict(),
            totals=plain(run.meter.totals),
            keep=run.config.checkpoint.keep,
        )


def _diverged(what: str, run: Run) -> ValueError:
    return ValueError(
        f"{what} before step {run.step}, and nothing was saved since: try a lower --optim.lr or --train.precision fp32"
    )
