"""The training loop."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator

from ...pipelines import LabBatch
from ...pipelines.loading.base import Loader
from ..checkpoints.model_file import Recipe
from ..configuration.config import RunConfig, Spec, plain
from ..console import Line
from ..distributed import agreed, share_buffers
from ..doctor import versions
from ..evaluation.predictors import Network
from ..evaluation.score import Unfinished, predictions, score
from .async_checkpoint import Saver
from .deferred_flags import Ballots
from .metrics_logger import Log
from .nonfinite import report_nonfinite
from .preview import sheet, triptychs
from .schedule import learning_rate
from .signals import Stop
from .throughput import Meter
from .train_step import HELD, NONFINITE, STOP, Learner


@dataclass(kw_only=True)
class Run:
    """Everything that a training run consists of."""

    config: RunConfig
    accelerator: Accelerator
    learner: Learner
    loss_spec: Spec  # with the prior that it has been made with
    loader: Loader
    validation: Loader | None
    preview: Loader
    meter: Meter
    first_step: int
    total_steps: int
    step: int
    saver: Saver | None = None  # of the first process
    log: Log = field(default_factory=Log)
    line: Line = field(default_factory=Line)
    stop: Stop = field(default_factory=Stop)

    def due(self, every: int) -> bool:
        """Whether that which happens every so many steps, and at the end, happens now."""
        return self.step > self.first_step and (self.step % every == 0 or self.step == self.total_steps)

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        return learning_rate(self.config.optim, step, total_steps=self.total_steps, batch_size=self.loader.batch_size)

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


def fit(run: Run) -> int:
    """Trains from run.step to run.total_steps; returns 0, or the number of the signal that has stopped it before.

    All processes stop at the same step, and what they have learnt is saved. Raises ValueError when the loss, gradients
    or weights are no numbers any more, more often than is allowed.
    """
    config = run.config
    batches = endless(run.loader)
    ballots: Ballots[tuple[int, LabBatch]] = Ballots(run.accelerator.device)
    events = [config.log.every, config.log.preview_every, config.log.validate_every, config.checkpoint.every]
    run.meter.start()
    while True:
        stop = judged(run, ballots, wait=any(map(run.due, events)))
        saves = bool(stop) or run.due(config.checkpoint.every)
        reports = saves or run.due(config.log.every)
        if reports:
            report(run)
        if saves:
            save(run)  # before all that reads photographs, and can fail
        if not stop and run.due(config.log.preview_every):
            show(run)
        if not stop and run.due(config.log.validate_every):
            stop = validate(run)
            if stop and not reports:
                report(run)
            if stop and not saves:
                save(run)
        if stop or run.step >= run.total_steps:
            return stop
        with run.meter.waiting():
            batch = next(batches)  # decoded while the device was at work on the step before
        means, flags = run.learner.learn(batch, step=run.step, rate=run.rate(run.step), stop=run.stop.number)
        ballots.cast(flags, (run.step, batch))
        run.meter.count(means, run.loader.batch_size)
        run.step += 1
        run.line.step(run.step)


def endless(loader: Loader) -> Iterator[LabBatch]:
    """The loader's batches, epoch after epoch."""
    while True:
        yield from loader


def judged(run: Run, ballots: Ballots[tuple[int, LabBatch]], *, wait: bool) -> int:
    """The signal that all processes have agreed to obey, or 0; says which steps did not count, or raises."""
    stop = 0
    for flags, (step, batch) in ballots.read(all_of_them=wait):
        if flags[NONFINITE]:
            report_nonfinite(run.config, run.learner, run.loader.data, batch, step=step, last=bool(flags[HELD]))
        stop = stop or int(flags[STOP])
    if stop and not wait:
        judged(run, ballots, wait=True)  # of the steps since then, only the faults count
    return stop


def report(run: Run) -> None:
    """Logs the mean over the steps since the last report."""
    means = run.meter.read(run.accelerator)
    values = {
        **means,
        "epoch": run.step * run.loader.batch_size / run.loader.num_samples,
        "optim/lr": run.rate(run.step - 1),
        "time/left(s)": (run.total_steps - run.step) * run.loader.batch_size / means["throughput(img/s)"],
    }
    run.log.metrics(values, run.step)
    mfu = f"  MFU {values['compute/mfu(%)']:.0f} %" if "compute/mfu(%)" in values else ""
    run.line.show(
        run.step,
        f"loss {values['train/loss']:.4g}  {means['throughput(img/s)']:.1f} img/s  "
        f"data wait {means['time/data_wait(%)']:.0f} %{mfu}",
    )


def show(run: Run) -> None:
    """Saves a picture of how the first photographs are colorized now."""
    if not run.accelerator.is_main_process:
        return
    with run.meter.paused():
        for batch, ab in predictions(Network(run.learner.best, run.learner.loss), run.preview):
            run.log.preview(sheet(triptychs(batch, ab)), run.step)


def validate(run: Run) -> int:
    """Logs the figures of the validation set, if there is one; returns the signal that has ended it before, or 0."""
    if run.validation is None:
        return 0
    stop = 0

    def asked() -> bool:
        nonlocal stop
        stop = agreed(run.stop.number, run.accelerator.device)
        return bool(stop)

    with run.meter.paused():
        share_buffers(run.learner.best)
        try:
            figures = score(Network(run.learner.best, run.learner.loss), run.validation, stop=asked)
        except Unfinished:
            return stop
    run.log.metrics({f"val/{name}": value for name, value in figures.items()}, run.step)
    return 0


def save(run: Run) -> None:
    """Has a checkpoint written. Raises ValueError when a weight is no number any more."""
    state = run.learner.best.state_dict()
    finite = torch.stack([tensor.isfinite().all() for tensor in state.values()]).tolist()
    if faults := [name for name, is_finite in zip(state, finite, strict=True) if not is_finite]:
        raise ValueError(
            f"{faults[0]} and {len(faults) - 1} more tensors of the network became infinite or nan before step "
            f"{run.step}, and nothing was saved since: try a lower --optim.lr or --train.precision fp32"
        )
    if run.saver:
        with run.meter.paused():
            run.saver.save(run.learner, run.recipe(), loader=run.loader.state_dict(), totals=plain(run.meter.totals))
