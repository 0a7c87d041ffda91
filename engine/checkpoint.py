"""Checkpoints that survive a crash at any moment: written aside, made durable, hashed, then renamed.

    RUN/checkpoints/step-00000500/  model.safetensors  optimizer.pt  state.json  SHA256SUMS

Nothing in them is executed on load: safetensors, JSON and torch.load(weights_only=True). Accelerate's own
`save_state` is not used: its `load_state` runs pickles, and it has no checksums.
"""

import hashlib
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

FORMAT = 1
MODEL, OPTIMIZER, STATE, SUMS = "model.safetensors", "optimizer.pt", "state.json", "SHA256SUMS"
_STEP = re.compile(r"step-\d{8}")
_SUM = re.compile(r"^([0-9a-f]{64})  (\S+)$", re.MULTILINE)  # the lines of sha256sum


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A saved moment of a run, its files' hashes checked."""

    folder: Path
    step: int
    loader: dict[str, Any]

    @property
    def model(self) -> Path:
        return self.folder / MODEL

    def optimizer(self, device: torch.device) -> dict[str, Any]:
        """The optimizer and gradient scaler states. Raises ValueError for a file that holds more than tensors."""
        path = self.folder / OPTIMIZER
        try:
            state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise ValueError(f"{path} is no optimizer state: {str(error).splitlines()[0]}") from None
        return state


def save_checkpoint(
    root: Path,
    step: int,
    *,
    write_model: Callable[[Path], None],
    optimizer: dict[str, Any],
    loader: dict[str, Any],
    keep: int,
) -> Path:
    """Saves a checkpoint below `root`, then removes all but the newest `keep`.

    Raises OSError when it cannot be written; the old ones then stay.
    """
    folder = root / f"step-{step:08d}"
    temporary = root / f".{folder.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        write_model(temporary / MODEL)
        torch.save(optimizer, temporary / OPTIMIZER)
        (temporary / STATE).write_text(json.dumps({"format": FORMAT, "step": step, "loader": loader}, indent=1))
        sums = "".join(f"{_sha256(temporary / name)}  {name}\n" for name in (MODEL, OPTIMIZER, STATE))
        (temporary / SUMS).write_text(sums)
        for path in [*temporary.iterdir(), temporary]:
            _sync(path)
        if folder.exists():  # saved before, by a run that was resumed from an earlier step
            shutil.rmtree(folder)
        temporary.rename(folder)
        _sync(root)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in list_checkpoints(root)[keep:]:
        shutil.rmtree(old)
    return folder


def list_checkpoints(root: Path) -> list[Path]:
    """The folders of all checkpoints below `root`, newest first."""
    return sorted((path for path in root.glob("step-*") if _STEP.fullmatch(path.name)), reverse=True)


def open_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`. Raises ValueError naming what is missing or damaged."""
    try:
        sums = {name: value for value, name in _SUM.findall((folder / SUMS).read_text(errors="replace"))}
        if sums.keys() != {MODEL, OPTIMIZER, STATE}:
            raise ValueError(f"{folder / SUMS} is damaged: it does not hold the sums of the checkpoint's files")
        for name, expected in sums.items():
            if (found := _sha256(folder / name)) != expected:
                raise ValueError(f"{folder / name} is damaged: its sha256 is {found[:12]}..., not {expected[:12]}...")
        state = json.loads((folder / STATE).read_text())
    except OSError as error:
        raise ValueError(f"{error.filename} cannot be read: {error.strerror}") from None
    if state["format"] != FORMAT:
        raise ValueError(f"{folder} has checkpoint format {state['format']}, this photochrom reads format {FORMAT}")
    return Checkpoint(folder=folder, step=state["step"], loader=state["loader"])


def newest_intact(root: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint below `root` that is whole; `warn` is told of each newer one that is not.

    Raises ValueError when there are checkpoints and none is whole.
    """
    folders = list_checkpoints(root)
    for folder in folders:
        try:
            return open_checkpoint(folder)
        except ValueError as error:
            warn(f"{error}; going back to the checkpoint before it")
    if folders:
        raise ValueError(f"none of the checkpoints in {root} is whole: remove the folder to start again")
    return None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Makes a file, or a folder's list of names, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
