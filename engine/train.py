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
from .checkpoint import save_checkpoint
from .config import RunConfig, plain
from .console import LiveLine
from .evaluate import predictions, score
from .launch import share_buffers
from .meter import Meter
from .preview import sheet, triptychs
from .runlog import Log
from .weights import Recipe, save_model


@dataclass(kw_only=True)
class Run:
    """Everything that a training run consists of."""

    config: RunConfig
    accelerator: Accelerator
    colorizer: Colorizer
    model: nn.Module  # the colorizer as Accelerate wrapped it: the same weights
    loss: ColorLoss
    optimizer: torch.optim.Optimizer
    loader: Loader
    validation: Loader | None
    preview: Loader
    log: Log
    line: LiveLine
    first_step: int
    total_steps: int
    step: int
    meter: Meter = field(default_factory=Meter)
    last_loss: float = math.nan

    def due(self, every: int) -> bool:
        """Whether that which happens every so many steps, and at the end, happens now."""
        return self.step > self.first_step and (self.step % every == 0 or self.step == self.total_steps)

    def recipe(self) -> Recipe:
        """How the model was made, as of now."""
        return Recipe(
            model=self.config.model,
            loss=self.config.loss,
            size=self.config.data.size,
            step=self.step,
            data=self.loader.data.digest,
            config=plain(self.config),
        )


def fit(run: Run) -> None:
    """Trains from run.step to run.total_steps. Raises ValueError when the loss is no number any more."""
    every = run.config.log
    batches = endless(run.loader)
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


def training_step(run: Run, batch: LabBatch) -> Tensor:
    """One optimizer step on this process's share of a batch; returns its mean loss, still on the device."""
    # A step's randomness, for models that have any, is a function of (seed, step, rank): a resumed run repeats it.
    torch.manual_seed(int(random_bits(run.config.train.seed, run.step, run.accelerator.process_index)[0] >> 1))
    run.model.train()
    parts = batch.split(run.config.train.accumulate)
    total = torch.zeros((), device=batch.L.device)
    for part in parts:
        # Gradients travel between processes once, with the last part.
        with nullcontext() if part is parts[-1] else run.accelerator.no_sync(run.model):
            loss = run.loss(run.model(part.L), part).total / len(parts)
            run.accelerator.backward(loss)
        total += loss.detach()
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    return total


def report(run: Run) -> None:
    """Logs the mean over the steps since the last report."""
    means = run.meter.read(run.accelerator)
    run.last_loss = means["train/loss"]
    if not math.isfinite(run.last_loss):
        raise ValueError(
            f"the loss became {run.last_loss} within the {run.config.log.every} steps before step {run.step}, and "
            "nothing was saved since: try a lower --optim.lr or --train.precision fp32"
        )
    values = {
        **means,
        "epoch": run.step * run.loader.batch_size / run.loader.num_samples,
        "optim/lr": run.config.optim.lr,
    }
    if run.accelerator.device.type == "cuda":
        values["memory/peak(GiB)"] = torch.cuda.max_memory_allocated() / 2**30
    run.log.metrics(values, run.step)
    run.line.show(
        run.step,
        f"loss {run.last_loss:.1f}  {means['throughput(img/s)']:.1f} img/s  "
        f"data wait {means['time/data_wait(%)']:.0f} %",
    )


def show(run: Run) -> None:
    """Saves a picture of how the first photographs are colorized now."""
    if not run.accelerator.is_main_process:
        return
    with run.meter.paused(run.accelerator.device):
        for batch, ab in predictions(run.colorizer, run.preview):
            run.log.preview(sheet(triptychs(batch, ab)), run.step)


def validate(run: Run) -> None:
    """Logs the figures of the validation set, if there is one."""
    if run.validation is None:
        return
    with run.meter.paused(run.accelerator.device):
        share_buffers(run.colorizer)
        figures = score(run.colorizer, run.loss, run.validation).summary()
    run.log.metrics({f"val/{name}": value for name, value in figures.items()}, run.step)


def save(run: Run) -> None:
    """Saves a checkpoint."""
    if not run.accelerator.is_main_process:
        return
    scaler = run.accelerator.scaler
    with run.meter.paused(run.accelerator.device):
        save_checkpoint(
            run.config.out / "checkpoints",
            run.step,
            write_model=lambda path: save_model(run.colorizer, run.recipe(), path),
            optimizer={"optimizer": run.optimizer.state_dict(), "scaler": scaler.state_dict() if scaler else None},
            loader=run.loader.state_dict(),
            keep=run.config.checkpoint.keep,
        )
