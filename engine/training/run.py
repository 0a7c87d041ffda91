"""A training run: set up, train, write the results, tear down."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ...models import Colorizer
from ...pipelines import CachedLoader
from ...pipelines.loading.base import Loader
from ...pipelines.loading.order import first_batch_of_epoch
from ...pipelines.output_dir import check_holds, claim_output, differences, write_json
from ...pipelines.structured import read_yaml
from ..checkpoints.checkpoint import (
    BEST,
    CHECKPOINTS,
    MODEL,
    Checkpoint,
    check_links,
    checkpoint_folder,
    clear_after,
    link_best,
)
from ..checkpoints.model_file import load_weights, save_model
from ..configuration.config import RunConfig, save_yaml, to_plain_dict
from ..configuration.registry import build_loss, build_model, with_prior
from ..console import LiveLine, console, plural
from ..distributed import call_on_main_process, make_training_accelerator
from ..loaders import evaluation_loader, training_loader
from ..provenance import provenance
from .async_checkpoint import AsyncCheckpointer
from .best import DEFAULT_METRIC, BestValidation
from .checks import (
    SUMMARY,
    check_batch_size,
    check_best,
    check_cuda_graphs,
    check_disk_space,
    check_head,
    check_init,
    check_network,
    check_optimizer_fits,
    check_steps_left,
    check_training_state,
    check_warmup,
    has_results,
)
from .flops import flops_per_image, published_peak
from .initial_weights import InitialWeights, init_provenance, load_initial_weights
from .loop import Run, fit
from .memory import check_memory
from .metrics_logger import MetricsLogger
from .schedule import lr_scale
from .shutdown import RunStopped, explain_lost_process
from .start import find_start
from .throughput import ThroughputMeter
from .trackers import Trackers, check_trackers
from .trainer import Trainer
from .unused_settings import unused_settings

CONFIG = "config.yaml"
_TRAINING_BACKENDS = ("synthetic", "cached")  # of no use for photographs that are real and rarely seen


def train(config: RunConfig) -> dict[str, Any]:
    """Trains as configured and returns the summary of the run.

    Everything that can be checked is checked before anything is written. Raises ValueError with one sentence for what a
    user can correct, RunStopped when a signal stopped the run.
    """
    check_trackers(config.log.trackers)
    accelerator = make_training_accelerator(config.train)
    say = console.print if accelerator.is_main_process else lambda text: None
    with ExitStack() as stack:

        def claim() -> Checkpoint | InitialWeights | None:
            stack.enter_context(claim_output(config.out, lambda out: check_holds(out, CHECKPOINTS, "run")))
            return find_start(config, say)

        run = prepare(config, accelerator, call_on_main_process(claim))
        if run.is_complete() and has_results(config.out):
            reason = run.best.explain_end(config.out / BEST) if run.best and run.step < run.total_steps else ""
            say(
                f"the run in {config.out} is finished, at step {run.step}{f': {reason}' * bool(reason)}; ask for more "
                f"with {'--train.patience' if reason else '--train.steps'}"
            )
            return _summary(run)
        stack.enter_context(run.stop.installed(verbose=accelerator.is_main_process))
        stack.enter_context(explain_lost_process(run))
        for loader in filter(None, (run.loader, run.validation, run.preview)):
            stack.callback(loader.close)
        if accelerator.is_main_process:
            _open_outputs(run, stack, say)
        accelerator.wait_for_everyone()
        for line in _describe(run):
            say(line)
        stopped = fit(run)
        if run.checkpointer:
            run.checkpointer.wait(needed=bool(stopped))
        if run.best and run.step < run.total_steps and not stopped:
            say(f"ended at step {run.step}: {run.best.explain_end(config.out / BEST)}")
        if accelerator.is_main_process and not stopped:
            save_model(run.trainer.eval_model.state_dict(), run.metadata(), config.out / MODEL)
            write_json(config.out / SUMMARY, _summary(run))
        accelerator.wait_for_everyone()  # a process that leaves earlier would end those that still write
    if stopped:
        raise RunStopped(stopped, f"stopped and saved at step {run.step}: the same command resumes from there")
    return _summary(run)


def prepare(config: RunConfig, accelerator: Accelerator, start: Checkpoint | InitialWeights | None) -> Run:
    """Builds all parts of a run in the state of `start`: a checkpoint, initial weights, or None for random ones."""
    checkpoint = start if isinstance(start, Checkpoint) else None
    check_batch_size(config, accelerator.num_processes)
    check_best(config)
    loader, validation, preview = _make_loaders(config, accelerator)
    check_cuda_graphs(config, loader)
    torch.manual_seed(config.train.seed)
    loss_spec = with_prior(config.loss, loader.data.prior.tolist())
    colorizer, loss = build_model(config.model), build_loss(loss_spec)
    check_head(config, colorizer, loss)
    if checkpoint:
        check_init(config, checkpoint)
        check_network(config, checkpoint)
        check_optimizer_fits(config, checkpoint)
        load_weights(colorizer, checkpoint.model)
        loader.load_state_dict(checkpoint.loader)
    elif isinstance(start, InitialWeights):
        for line in load_initial_weights(colorizer, config.model, start):
            if accelerator.is_main_process:
                console.print(line)
    total_steps = config.train.steps or first_batch_of_epoch(loader.num_samples, loader.batch_size, config.train.epochs)
    check_warmup(config, total_steps)
    best = None
    if validation:
        metric = config.checkpoint.best or DEFAULT_METRIC
        best = BestValidation.resume(metric, validation.data.digest, checkpoint)
    if checkpoint:
        check_steps_left(config, checkpoint, total_steps, best)

    check_memory(config, colorizer, loss, accelerator)
    meter = ThroughputMeter(accelerator.device, _peak_seconds_per_image(config, colorizer, accelerator))
    trainer = Trainer(colorizer, loss, config, accelerator)
    if checkpoint:
        state = checkpoint.training()
        check_training_state(config, colorizer, state)
        trainer.load_state_dict(state)
        meter.totals = checkpoint.totals
    return Run(
        config=config,
        accelerator=accelerator,
        trainer=trainer,
        loss_spec=loss_spec,
        loader=loader,
        validation=validation,
        best=best,
        preview=preview,
        meter=meter,
        provenance=provenance() | init_provenance(start),
        first_step=checkpoint.step if checkpoint else 0,
        total_steps=total_steps,
        step=checkpoint.step if checkpoint else 0,
    )


def _peak_seconds_per_image(config: RunConfig, colorizer: Colorizer, accelerator: Accelerator) -> float | None:
    """Returns the seconds that a photograph takes at the device's peak, or None where the peak is not known."""
    device = accelerator.device
    peak = 1e12 * (config.log.peak_tflops or 0) or published_peak(device, accelerator.mixed_precision)
    return flops_per_image(colorizer, config.data.size, device) / peak if peak else None


def _make_loaders(config: RunConfig, accelerator: Accelerator) -> tuple[Loader, Loader | None, Loader]:
    """Returns the loaders of training, of validation if there is any, and of the photographs for previews."""
    data, train = config.data, config.train
    eval_backend = "auto" if config.loader.backend in _TRAINING_BACKENDS else config.loader.backend
    eval_config = replace(config.loader, backend=eval_backend)
    loader = training_loader(config, accelerator)
    validation = None
    if data.val is not None:
        validation = evaluation_loader(eval_config, data.val, accelerator, batch_size=train.batch_size, size=data.size)
    preview_data = (validation or loader).data
    num_previews = min(config.log.num_previews, preview_data.num_samples)
    preview = evaluation_loader(
        eval_config,
        preview_data,
        accelerator,
        shared=False,
        batch_size=num_previews,
        size=data.size,
        samples=range(num_previews),
    )
    return loader, validation, preview


def _open_outputs(run: Run, stack: ExitStack, say: Callable[[str], None]) -> None:
    """Claims the run's folder and opens its log, checkpoints and progress line, until the stack closes."""
    config = run.config
    _prepare_folder(config, run.step, say)
    if config.checkpoint.best and run.best and run.best.value is not None:
        link_best(checkpoint_folder(config.out / CHECKPOINTS, run.best.step))  # which a killed run may have left undone
    check_disk_space(config.out, run.trainer.colorizer, has_ema=run.trainer.ema is not None)
    trackers = Trackers(config.log.trackers, config.out, run.step, to_plain_dict(config), say)
    validated_until = run.best.last_step if run.best else run.step
    logger = MetricsLogger(config.out, run.step, trackers, say, validated_until=validated_until)
    run.log = stack.enter_context(closing(logger))
    run.checkpointer = stack.enter_context(closing(AsyncCheckpointer(config.out, config.checkpoint, say)))
    run.line = stack.enter_context(closing(LiveLine(run.step, run.total_steps)))


def _prepare_folder(config: RunConfig, step: int, say: Callable[[str], None]) -> None:
    """Removes from the run's folder what is later than `step`, and prints changed settings."""
    out = config.out
    if config.checkpoint.best:
        check_links(out)
    (out / CHECKPOINTS).mkdir(exist_ok=True)
    before = _read_config(out / CONFIG) if (out / CONFIG).exists() else to_plain_dict(config)
    clear_after(out / CHECKPOINTS, step, say)
    for result in (MODEL, SUMMARY):  # of a shorter run
        (out / result).unlink(missing_ok=True)
    for line in differences(before, to_plain_dict(config)):
        say(f"changed since the run began: {line.replace('.init_args', '')}")
    save_yaml(config, out / CONFIG)


def _read_config(path: Path) -> Any:
    try:
        return read_yaml(path)
    except ValueError:
        raise ValueError(f"{path} is damaged: remove it, and the run continues from its checkpoints") from None


def _describe(run: Run) -> Iterator[str]:
    """Yields what a person should know before a run starts."""
    config, accelerator, device = run.config, run.accelerator, run.accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    precision = {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    processes = f" ({accelerator.num_processes} processes)" if accelerator.num_processes > 1 else ""
    epochs = run.total_steps * run.loader.batch_size / run.loader.num_samples
    yield (
        f"training from step {run.step} to {run.total_steps} on {name}{processes} in {precision}, "
        f"with {type(run.loader).__name__} and {config.optim.class_path} at {run.trainer.base_lr:g}, into {config.out}"
        f": {config.model.class_path}, {epochs:.4g} epochs of {plural(run.loader.num_samples, 'photograph')}"
    )
    if isinstance(run.loader, CachedLoader):
        yield f"the cache has room for {100 * run.loader.share:.0f} % of the photographs"
    if (batch_size := run.loader.batch_size) > run.loader.num_samples:
        yield (
            f"train.batch_size={batch_size} is more than the {plural(run.loader.num_samples, 'photograph')}: a batch "
            "holds some of them several times"
        )
    lr = run.trainer.base_lr
    if (factor := lr_scale(config.schedule, run.loader.batch_size)) != 1:
        yield (
            f"learning rate {lr:g} x {factor:.4g} = {lr * factor:.4g}: batches of {run.loader.batch_size} instead of "
            f"{config.schedule.reference_batch_size}, {config.schedule.lr_scaling}"
        )
    yield from unused_settings(run)


def _summary(run: Run) -> dict[str, Any]:
    totals, best = run.meter.totals, run.best
    summary = {
        "steps": run.step,
        "epochs": totals.images / run.loader.num_samples,
        "images": totals.images,
        "seconds": round(totals.seconds, 3),
        "images_per_second": round(totals.images / totals.seconds, 2),
        "data_wait_percent": round(100 * totals.waited / totals.seconds, 2),
        "loss": totals.loss,
        "checkpoint": str(run.config.out / MODEL),
        "provenance": run.provenance,
    }
    if best and run.config.checkpoint.best:
        link = None if best.value is None else str(run.config.out / BEST)
        summary["best"] = {"metric": best.metric, "value": best.value, "step": best.step, "checkpoint": link}
    return summary
