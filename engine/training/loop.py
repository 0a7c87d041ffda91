"""The training loop."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator

from ...pipelines import LabBatch
from ...pipelines.loading.base import Loader
from ..checkpoints.model_file import ModelMetadata
from ..configuration.config import ClassSpec, RunConfig, to_plain_dict
from ..console import LiveLine
from ..distributed import all_reduce_max, broadcast_buffers, describe_machine
from ..doctor import versions
from ..evaluation.predictors import ModelPredictor
from ..evaluation.score import ScoringStopped, predictions, score
from .async_checkpoint import AsyncCheckpointer
from .best import BestValidation
from .deferred_flags import DeferredFlags
from .metrics_logger import MetricsLogger
from .nonfinite import report_nonfinite
from .preview import contact_sheet, triptychs
from .schedule import learning_rate
from .shutdown import LostProcess, StopSignal
from .throughput import ThroughputMeter
from .trainer import HALTED, NONFINITE, STOP, Trainer

_FAILED = 255  # instead of the number of a signal, and larger


@dataclass(kw_only=True)
class Run:
    """The parts and the state of a training run."""

    config: RunConfig
    accelerator: Accelerator
    trainer: Trainer
    loss_spec: ClassSpec  # with the prior of the training set
    loader: Loader
    validation: Loader | None
    best: BestValidation | None  # with a validation set
    preview: Loader
    meter: ThroughputMeter
    provenance: dict[str, Any]
    first_step: int
    total_steps: int
    step: int
    checkpointer: AsyncCheckpointer | None = None  # this and the next two: in the main process only
    log: MetricsLogger | None = None
    line: LiveLine | None = None
    stop: StopSignal = field(default_factory=StopSignal)

    def due(self, every: int) -> bool:
        """True every `every` steps and at the last step, but not before the first step."""
        return self.step > self.first_step and (self.step % every == 0 or self.step == self.total_steps)

    def validation_due(self) -> bool:
        """True where a validation is due, and before the first step if the one that was due there was interrupted."""
        if self.best is None:
            return False
        every = self.config.log.validate_every
        was_interrupted = self.best.last_step < self.step == self.first_step and self.step % every == 0
        return self.due(every) or was_interrupted

    def is_complete(self) -> bool:
        """True after the last step, and after train.patience validations without a better value."""
        patience = self.config.train.patience
        return self.step >= self.total_steps or (self.best is not None and self.best.is_exhausted(patience))

    def lr(self, step: int) -> float:
        """Returns the learning rate of a step."""
        return learning_rate(
            self.config.schedule,
            step,
            lr=self.trainer.base_lr,
            total_steps=self.total_steps,
            batch_size=self.loader.batch_size,
        )

    def metadata(self) -> ModelMetadata:
        """Returns the metadata of the model at this step."""
        model = self.config.model
        return ModelMetadata(
            model=ClassSpec(class_path=model.class_path, init_args=model.init_args),
            loss=self.loss_spec,
            size=self.config.data.size,
            step=self.step,
            data=self.loader.data.digest,
            config=to_plain_dict(self.config),
            versions=versions(),
            provenance=self.provenance,
            training={
                "photographs": self.loader.num_samples,
                "images": self.meter.totals.images,
                "seconds": round(self.meter.totals.seconds),
                "machine": describe_machine(self.accelerator),
            },
        )


def fit(run: Run) -> int:
    """Trains from run.step to run.total_steps; returns 0, or the number of the signal that stopped it earlier.

    A signal stops all processes at the same step, which is saved. Raises ValueError when the loss, gradients or weights
    become infinite or nan more often than is allowed.
    """
    config = run.config
    batches = endless(run.loader)
    queue: DeferredFlags[tuple[int, LabBatch]] = DeferredFlags(run.accelerator.device)
    events = [config.log.every, config.log.preview_every, config.log.validate_every, config.checkpoint.every]
    run.meter.start()
    while True:
        stop = check_flags(run, queue, wait=any(map(run.due, events)))
        reports = bool(stop) or run.due(config.checkpoint.every) or run.due(config.log.every)
        if reports:
            report(run)
        is_best = False
        if not stop and run.validation_due():
            try:
                stop, is_best = validate(run)
            except Exception:
                save(run)  # what a validation cannot read costs no training
                raise
        ends_now = run.step > run.first_step and run.is_complete()
        if stop or run.due(config.checkpoint.every) or is_best or ends_now:
            if not reports and run.step > run.first_step:
                report(run)
            save(run, is_best=is_best)
        if not stop and run.due(config.log.preview_every):
            preview(run)
        if stop or run.is_complete():
            return stop
        with run.meter.data_wait():
            batch = next(batches)  # decoded while the device computed the step before
        means, flags = run.trainer.train_step(batch, step=run.step, lr=run.lr(run.step), stop=run.stop.number)
        queue.push(flags, (run.step, batch))
        run.meter.update(means, run.loader.batch_size)
        run.step += 1
        if run.line:
            run.line.step(run.step)


def endless(loader: Loader) -> Iterator[LabBatch]:
    """Yields the loader's batches, epoch after epoch."""
    while True:
        yield from loader


def check_flags(run: Run, queue: DeferredFlags[tuple[int, LabBatch]], *, wait: bool) -> int:
    """Returns the signal that all processes agree to obey, or 0; reports skipped steps, or raises."""
    stop = 0
    for flags, (step, batch) in queue.pop_ready(wait=wait):
        if flags[NONFINITE]:
            report_nonfinite(run.config, run.trainer, run.loader.data, batch, step=step, fatal=bool(flags[HALTED]))
        stop = stop or int(flags[STOP])
    if stop and not wait:
        check_flags(run, queue, wait=True)  # the steps since then: only their faults count
    return stop


def report(run: Run) -> None:
    """Logs the means over the steps since the last report."""
    means = run.meter.compute(run.accelerator)
    values = {
        **means,
        "epoch": run.step * run.loader.batch_size / run.loader.num_samples,
        "optim/lr": run.lr(run.step - 1),
        "time/eta(s)": (run.total_steps - run.step) * run.loader.batch_size / means["throughput(img/s)"],
    }
    if run.log and run.line:
        run.log.metrics(values, run.step)
        mfu = f"  MFU {values['compute/mfu(%)']:.0f} %" if "compute/mfu(%)" in values else ""
        run.line.show(
            run.step,
            f"loss {values['train/loss']:.4g}  {means['throughput(img/s)']:.1f} img/s  "
            f"data wait {means['time/data_wait(%)']:.0f} %{mfu}",
        )


def preview(run: Run) -> None:
    """Saves a picture of how the network colorizes the first photographs now."""
    if not run.log:
        return
    with run.meter.paused():
        for batch, ab in predictions(ModelPredictor(run.trainer.eval_model, run.trainer.loss), run.preview):
            run.log.preview(contact_sheet(triptychs(batch, ab)), run.step)


def validate(run: Run) -> tuple[int, bool]:
    """Logs the metrics on the validation set, if there is one.

    Returns the signal that interrupted it, or 0, and True if its checkpoint is the best one, to be kept. Raises
    LostProcess when another process fails.
    """
    if run.validation is None or run.best is None:
        return 0, False
    stop = 0

    def is_stopped() -> bool:
        nonlocal stop
        stop = all_reduce_max(run.stop.number, run.accelerator.device)
        return bool(stop)

    with run.meter.paused():
        broadcast_buffers(run.trainer.eval_model)
        try:
            metrics = score(ModelPredictor(run.trainer.eval_model, run.trainer.loss), run.validation, stop=is_stopped)
        except ScoringStopped:
            if stop == _FAILED:
                raise LostProcess(f"another process failed in the validation of step {run.step}: it says why") from None
            return stop, False
        except Exception:
            all_reduce_max(_FAILED, run.accelerator.device)  # or the others would wait for this process, saving nothing
            raise
    value = metrics[run.best.metric]
    is_best = run.best.update(value, run.step)
    if run.log and run.line:
        run.log.metrics({f"val/{name}": value for name, value in metrics.items()}, run.step)
        run.line.show(run.step, f"val {run.best.describe(value)}", "validation")
    return 0, is_best and run.config.checkpoint.best is not None


def save(run: Run, *, is_best: bool = False) -> None:
    """Starts to write a checkpoint; waits for the best one, which counts only where it is kept.

    Raises ValueError when a weight is infinite or nan.
    """
    state = run.trainer.eval_model.state_dict()
    finite = torch.stack([tensor.isfinite().all() for tensor in state.values()]).tolist()
    if faults := [name for name, is_finite in zip(state, finite, strict=True) if not is_finite]:
        raise ValueError(
            f"{faults[0]} and {len(faults) - 1} more tensors of the network became infinite or nan before step "
            f"{run.step}, and nothing was saved since: try a lower --optim.lr or --train.precision fp32"
        )
    if run.checkpointer:
        with run.meter.paused():
            run.checkpointer.save(
                run.trainer,
                run.metadata(),
                loader=run.loader.state_dict(),
                totals=to_plain_dict(run.meter.totals),
                best=to_plain_dict(run.best),
                is_best=is_best,
            )
    if is_best and run.best:
        with run.meter.paused():
            is_lost = run.checkpointer is not None and not run.checkpointer.wait()
            if all_reduce_max(int(is_lost), run.accelerator.device):
                run.best.undo()
