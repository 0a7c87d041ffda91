"""Checkpoints written while training goes on, from copies of what they hold."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from .checkpoint import CHECKPOINTS, list_checkpoints, save_checkpoint
from .config import CheckpointConfig
from .learner import Learner
from .weights import Recipe, save_model


class Saver:
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

    def save(self, learner: Learner, recipe: Recipe, *, loader: dict[str, Any], totals: dict[str, Any]) -> None:
        """Copies where training stands, which takes milliseconds, and has it written; see `save_checkpoint`.

        Waits for the checkpoint before it, and says or raises what became of that.
        """
        self.wait()
        copy = _Copy({"model": learner.best.state_dict(), **learner.state_dict()})

        def write() -> None:
            state = copy.on_cpu()
            model = state.pop("model")
            save_checkpoint(
                self._root,
                recipe.step,
                write_model=lambda path: save_model(model, recipe, path),
                optimizer=state,
                loader=loader,
                totals=totals,
                keep=self._config.keep,
                keep_every=self._config.keep_every,
            )

        self._step, self._writing = recipe.step, self._thread.submit(write)

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


class _Copy:
    """Tensors as they are now, copied where they are: on a GPU that takes no time that the host would notice."""

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = tree_map(lambda value: value.detach().clone() if isinstance(value, Tensor) else value, state)
        on_gpu = any(isinstance(value, Tensor) and value.is_cuda for value in tree_leaves(state))
        self._made = torch.cuda.Event() if on_gpu else None
        if self._made:
            self._made.record()

    def on_cpu(self) -> dict[str, Any]:
        """The tensors in the host's memory; for another thread, which then does not wait for the training's work."""
        if self._made is None:
            return self._state
        with torch.cuda.stream(torch.cuda.Stream()):
            self._made.wait()
            state: dict[str, Any] = tree_map(
                lambda value: value.cpu() if isinstance(value, Tensor) else value, self._state
            )
        return state
