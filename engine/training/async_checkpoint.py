"""Checkpoints written while training goes on, from copies of what they hold."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from ..checkpoints.checkpoint import CHECKPOINTS, list_checkpoints, save_checkpoint
from ..checkpoints.model_file import ModelMetadata, save_model
from ..configuration.config import CheckpointConfig
from .train_step import Trainer


class AsyncCheckpointer:
    """Writes one checkpoint at a time, in a thread.

    Args:
        out: The run's folder.
        config: When, and how many.
        warn: Is told, in a sentence, of a checkpoint that could not be written, if that ends no run.
    """

    def __init__(self, out: Path, config: CheckpointConfig, warn: Callable[[str], None]) -> None:
        self._root, self._config, self._warn = out / CHECKPOINTS, config, warn
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="photochrom-saving")
        self._writing: Future[None] | None = None
        self._copy: _Copy | None = None  # the last one

    def save(
        self, trainer: Trainer, metadata: ModelMetadata, *, loader: dict[str, Any], totals: dict[str, Any]
    ) -> None:
        """Copies where training stands, which takes milliseconds, and has it written; see `save_checkpoint`.

        Waits for the checkpoint before it, and says or raises what became of that.
        """
        self.wait()
        copy = _Copy({"model": trainer.eval_model.state_dict(), **trainer.state_dict()}, into=self._copy)
        self._copy = None if copy.is_on_gpu else copy  # whose memory is for training

        def write() -> None:
            state = copy.on_cpu()
            model = state.pop("model")
            save_checkpoint(
                self._root,
                metadata.step,
                write_model=lambda path: save_model(model, metadata, path),
                optimizer=state,
                loader=loader,
                totals=totals,
                keep=self._config.keep,
                keep_every=self._config.keep_every,
            )

        self._step, self._writing = metadata.step, self._thread.submit(write)

    def wait(self, *, needed: bool = False) -> None:
        """Waits until all is written. Raises OSError when it could not be and was needed, or ends the run."""
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        try:
            writing.result()
        except OSError as error:
            saved = list_checkpoints(self._root)
            last = f"the last one is {saved[0].name}" if saved else "there is none yet"
            sentence = f"the checkpoint of step {self._step} was not saved ({error}); {last}"
            if needed or self._config.on_error == "stop":
                raise OSError(f"{sentence}: make room, and the same command goes on from there") from None
            self._warn(f"{sentence}; training goes on")

    def close(self) -> None:
        """Ends the thread, when it has written what it was given."""
        self._thread.shutdown()
        if self._writing and (error := self._writing.exception()):
            self._warn(f"the checkpoint of step {self._step} was not saved ({error})")


class _Copy:
    """Tensors as they are now, copied where they are: on a GPU that takes no time that the host would notice."""

    def __init__(self, state: dict[str, Any], *, into: "_Copy | None") -> None:
        """`into` is a copy that is not needed any more: on a CPU, half of the time goes into new memory."""
        self._leaves: list[Any]
        self._spec: TreeSpec
        leaves, self._spec = tree_flatten(state)
        self.is_on_gpu = any(isinstance(leaf, Tensor) and leaf.is_cuda for leaf in leaves)
        if into is not None and into._spec == self._spec:
            pairs = zip(leaves, into._leaves, strict=True)
            self._leaves = [old.copy_(new) if isinstance(new, Tensor) else new for new, old in pairs]
        else:
            self._leaves = [leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._made = torch.cuda.Event() if self.is_on_gpu else None
        if self._made:
            self._made.record()

    def on_cpu(self) -> dict[str, Any]:
        """The tensors in the host's memory; for another thread, which then does not wait for the training's work."""
        leaves = self._leaves
        if self._made:
            with torch.cuda.stream(torch.cuda.Stream()):
                self._made.wait()
                leaves = [leaf.cpu() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        state: dict[str, Any] = tree_unflatten(leaves, self._spec)
        return state
