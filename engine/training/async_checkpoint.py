"""Checkpoints that are written while training continues, from copies of what they hold."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ..checkpoints.checkpoint import CHECKPOINTS, list_checkpoints, save_checkpoint
from ..checkpoints.model_file import ModelMetadata, save_model
from ..configuration.config import CheckpointConfig
from .trainer import Trainer

_MODEL = "model"  # beside the names in a Trainer's state


class AsyncCheckpointer:
    """Writes one checkpoint at a time, in a thread.

    Args:
        out: Folder of the run.
        config: How many checkpoints to keep, and what to do when one cannot be written.
        warn: Called with a sentence when a checkpoint could not be written and the run continues.
    """

    def __init__(self, out: Path, config: CheckpointConfig, warn: Callable[[str], None]) -> None:
        self._root, self._config, self._warn = out / CHECKPOINTS, config, warn
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="photochrom-saving")
        self._pending: Future[None] | None = None

    def save(
        self,
        trainer: Trainer,
        metadata: ModelMetadata,
        *,
        loader: dict[str, Any],
        totals: dict[str, Any],
        best: dict[str, Any] | None = None,
        is_best: bool = False,
    ) -> None:
        """Copies the state of training, which takes milliseconds, and starts to write it; see `save_checkpoint`.

        Waits for the previous checkpoint first, and warns or raises if it could not be written.
        """
        self.wait()
        snapshot = _Snapshot({_MODEL: trainer.eval_model.state_dict(), **trainer.state_dict()})

        def write() -> None:
            state = snapshot.on_cpu()
            model = state.pop(_MODEL)
            save_checkpoint(
                self._root,
                metadata.step,
                write_model=lambda path: save_model(model, metadata, path),
                training=state,
                loader=loader,
                totals=totals,
                best=best,
                is_best=is_best,
                keep=self._config.keep,
                keep_every=self._config.keep_every,
            )

        self._step, self._pending = metadata.step, self._executor.submit(write)

    def wait(self, *, needed: bool = False) -> bool:
        """Waits until all is written; returns False when that failed.

        Raises OSError instead when it was `needed` or on_error is stop.
        """
        if self._pending is None:
            return True
        pending, self._pending = self._pending, None
        try:
            pending.result()
        except OSError as error:
            saved = list_checkpoints(self._root)
            newest = f"the last one is {saved[0].name}" if saved else "there is none yet"
            message = f"the checkpoint of step {self._step} was not saved ({error}); {newest}"
            if needed or self._config.on_error == "stop":
                raise OSError(f"{message}: make room, and the same command resumes from there") from None
            self._warn(f"{message}; training continues")
            return False
        return True

    def close(self) -> None:
        """Waits for the last checkpoint and ends the thread; warns if it was not saved."""
        self._executor.shutdown()
        if self._pending and (error := self._pending.exception()):
            self._warn(f"the checkpoint of step {self._step} was not saved ({error})")


class _Snapshot:
    """A copy of tensors on their own device: on a GPU, the host does not wait for it."""

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), state)
        self._copied = torch.cuda.Event() if torch.cuda.is_initialized() else None
        if self._copied:
            self._copied.record()

    def on_cpu(self) -> dict[str, Any]:
        """Returns the tensors on the CPU; a thread that calls it does not wait for training steps on the GPU."""
        state: dict[str, Any] = self._state
        if self._copied:
            with torch.cuda.stream(torch.cuda.Stream()):
                self._copied.wait()
                state = tree_map_only(Tensor, Tensor.cpu, state)
        return state
