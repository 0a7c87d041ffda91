"""Finds where a run starts: from a checkpoint, from the weights of a trained model, or from random ones."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..checkpoints.checkpoint import (
    CHECKPOINTS,
    SUMS,
    Checkpoint,
    checkpoint_folder,
    list_checkpoints,
    newest_intact,
    open_checkpoint,
)
from ..configuration.config import RunConfig
from .initial_weights import InitialWeights, find_initial_weights


def find_start(config: RunConfig, say: Callable[[str], None]) -> Checkpoint | InitialWeights | None:
    """Returns the checkpoint to resume from; for a new run the weights to begin with, or None for random ones.

    The main process decides for all, as a checkpoint may appear between two looks at the folder.
    """
    if checkpoint := _find_checkpoint(config, say):
        return _without_lost_best(config, checkpoint)
    return find_initial_weights(config.model.init) if config.model.init else None


def _find_checkpoint(config: RunConfig, say: Callable[[str], None]) -> Checkpoint | None:
    """Returns the checkpoint to resume from, or None for a new run."""
    if config.resume == "auto":
        return newest_intact(config.out / CHECKPOINTS, say)
    named = Path(config.resume)
    is_own = config.resume != "never" and named.resolve().is_relative_to(config.out.resolve())
    if list_checkpoints(config.out / CHECKPOINTS) and not is_own:
        raise ValueError(f"{config.out} already holds a run: name another --out, or continue it with --resume auto")
    if config.resume == "never":
        return None
    if (named / SUMS).exists():
        return open_checkpoint(named)
    if not (named / CHECKPOINTS).is_dir():
        raise ValueError(f"--resume {named} is not auto, never or the folder of a run or a checkpoint")
    if checkpoint := newest_intact(named / CHECKPOINTS, say):
        return checkpoint
    raise ValueError(f"--resume {named} has no checkpoint yet: name another, or start anew without --resume")


def _without_lost_best(config: RunConfig, checkpoint: Checkpoint) -> Checkpoint:
    """Returns the checkpoint; without its best validation if the checkpoint of that is not in the run's folder."""
    best = checkpoint.best
    if best is None or not config.checkpoint.best or checkpoint_folder(config.out / CHECKPOINTS, best.step).exists():
        return checkpoint
    return replace(checkpoint, best=replace(best, value=None, num_since=0))
