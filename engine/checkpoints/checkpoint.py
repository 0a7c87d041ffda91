"""Checkpoints that survive a crash at any moment: written aside, made durable, hashed, then renamed.

    RUN/checkpoints/step-00000500/  model.safetensors  training.safetensors  state.json  SHA256SUMS

Nothing in them is executed on load: they are safetensors and JSON. Accelerate's own
`save_state` is not used: its `load_state` runs pickles, and it has no checksums.
"""

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ...pipelines.files import sha256_of, sync
from ...pipelines.structured import check_counts, read_bytes, read_json, validated
from .training_state import load_state, save_state

FORMAT = 3
CHECKPOINTS = "checkpoints"  # the folder in a run's
BEST = "best"  # a link beside it
MODEL, TRAINING, STATE, SUMS = "model.safetensors", "training.safetensors", "state.json", "SHA256SUMS"
_STEP = re.compile(r"step-\d{8}")
_SUM = re.compile(r"^([0-9a-f]{64})  (\S+)$", re.MULTILINE)  # the lines of sha256sum


@dataclass(kw_only=True)
class Totals:
    """Totals of a run over all its starts; `loss` is the last one reported."""

    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    loss: float = math.nan

    def __post_init__(self) -> None:
        check_counts(self, "images", "seconds", "waited")


@dataclass(kw_only=True)
class BestState:
    """The best value of one metric on one validation set, whose digest is `data`."""

    metric: str
    data: str
    value: float | None = None  # before the first validation
    step: int = 0  # of the best value
    num_since: int = 0  # validations since then
    last_step: int = 0  # of the last validation

    def __post_init__(self) -> None:
        check_counts(self, "step", "num_since", "last_step")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A saved state of a run, whose files match their hashes."""

    folder: Path
    step: int
    loader: dict[str, Any]
    totals: Totals
    best: BestState | None

    def __post_init__(self) -> None:
        check_counts(self, "step")

    @property
    def model(self) -> Path:
        return self.folder / MODEL

    def training(self) -> dict[str, Any]:
        """Returns the state of the Trainer, on the CPU. Raises ValueError for a file that holds anything else."""
        return load_state(self.folder / TRAINING)


def save_checkpoint(
    root: Path,
    step: int,
    *,
    write_model: Callable[[Path], None],
    training: dict[str, Any],
    loader: dict[str, Any],
    totals: dict[str, Any],
    best: dict[str, Any] | None = None,
    is_best: bool = False,
    keep: int,
    keep_every: int | None = None,
) -> Path:
    """Writes a checkpoint below `root`, then removes all but the newest `keep`, those of every `keep_every` steps, and
    the best one.

    `training` is the state of the Trainer. The state of the `loader`, the `totals` of the run and its `best` validation
    are plain JSON. Raises OSError when it cannot be written; the old checkpoints then stay.
    """
    folder = checkpoint_folder(root, step)
    if not folder.exists():  # as it does where a resumed run repeats an interrupted validation before its first step
        _write(folder, step, write_model, training, {"loader": loader, "totals": totals, "best": best})
    if is_best:
        link_best(folder)
    kept = {*list_checkpoints(root)[:keep], root / (root.parent / BEST).resolve().name}
    for old in list_checkpoints(root):
        if old not in kept and (keep_every is None or int(old.name.removeprefix("step-")) % keep_every):
            shutil.rmtree(old)
    return folder


def checkpoint_folder(root: Path, step: int) -> Path:
    """Returns the folder of a step's checkpoint."""
    return root / f"step-{step:08d}"


def check_links(run: Path) -> None:
    """Raises ValueError where the file system makes no links, as some network shares; RUN/best is one."""
    link = run / f".{BEST}.tmp"
    try:
        link.unlink(missing_ok=True)
        link.symlink_to(CHECKPOINTS)
        link.unlink()
    except OSError as error:
        raise ValueError(
            f"checkpoint.best makes a link in {run}, which its file system refuses ({error.strerror}): name another "
            "--out, or omit checkpoint.best"
        ) from None


def link_best(folder: Path) -> None:
    """Makes RUN/best a link to a checkpoint of the run."""
    run = folder.parents[1]
    temporary = run / f".{BEST}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.relative_to(run))
    temporary.rename(run / BEST)
    sync(run)


def _write(
    folder: Path, step: int, write_model: Callable[[Path], None], training: dict[str, Any], state: dict[str, Any]
) -> None:
    """Writes all files of a checkpoint; it appears in whole, or not at all."""
    root = folder.parent
    temporary = root / f".{folder.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        write_model(temporary / MODEL)
        try:
            save_state(training, temporary / TRAINING)
        except SafetensorError as error:  # when a disk is full
            raise to_os_error(temporary / TRAINING, error) from None
        (temporary / STATE).write_text(json.dumps({"format": FORMAT, "step": step, **state}, indent=1))
        sums = "".join(f"{sha256_of(temporary / name)}  {name}\n" for name in (MODEL, TRAINING, STATE))
        (temporary / SUMS).write_text(sums)
        for path in [*temporary.iterdir(), temporary]:
            sync(path)
        temporary.rename(folder)
        sync(root)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise OSError(str(error).replace(temporary.name, folder.name)) from None
        raise


def to_os_error(path: Path, error: Exception) -> OSError:
    """Converts a library's write error to OSError."""
    free = shutil.disk_usage(path.parent).free
    return OSError(f"{path} cannot be written, {free / 1e6:,.0f} MB are free: {str(error).splitlines()[0]}")


def list_checkpoints(root: Path) -> list[Path]:
    """Returns the folders of all checkpoints below `root`, newest first."""
    return sorted((path for path in root.glob("step-*") if _STEP.fullmatch(path.name)), reverse=True)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Returns the checkpoint in `folder`. Raises ValueError naming what is missing or damaged."""
    try:
        _check_sums(folder)
        state = read_json(folder / STATE)
    except OSError as error:
        raise ValueError(f"{error.filename} cannot be read: {error.strerror}") from None
    name = f"{folder / STATE} is not the state of a checkpoint"
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        its = f"{state.get('format')!r:.40}" if isinstance(state, dict) else "unknown"
        raise ValueError(f"{name}: its format is {its}, and this photochrom reads format {FORMAT}")
    return validated(Checkpoint, {**state, "folder": folder}, name)


def _check_sums(folder: Path) -> None:
    text = read_bytes(folder / SUMS).decode(errors="replace")
    sums = {name: value for value, name in _SUM.findall(text)}
    if sums.keys() != {MODEL, TRAINING, STATE}:
        raise ValueError(f"{folder / SUMS} is damaged: it does not hold the sums of the checkpoint's files")
    for name, expected in sums.items():
        if (actual := sha256_of(folder / name)) != expected:
            raise ValueError(f"{folder / name} is damaged: its sha256 is {actual[:12]}..., not {expected[:12]}...")


def newest_intact(root: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """Returns the newest intact checkpoint below `root`; calls `warn` with a sentence for each newer one.

    Raises ValueError when there are checkpoints and none is intact.
    """
    folders = list_checkpoints(root)
    for folder in folders:
        try:
            return open_checkpoint(folder)
        except ValueError as error:
            warn(f"{error}; going back to the checkpoint before it")
    if folders:
        raise ValueError(f"none of the checkpoints in {root} is intact: remove the folder to start again")
    return None


def clear_after(root: Path, step: int, say: Callable[[str], None]) -> None:
    """Removes half-written checkpoints, damaged ones later than `step`, and the link to the best one if that is gone.

    Raises ValueError when a later one is intact: a run cannot resume from `step` then.
    """
    for unfinished in root.glob(".step-*.tmp"):
        shutil.rmtree(unfinished)
    later = [folder for folder in list_checkpoints(root) if folder.name > f"step-{step:08d}"]
    for folder in later:
        try:
            open_checkpoint(folder)
        except ValueError:
            continue
        raise ValueError(
            f"{folder} is later than step {step}, from which the run is to resume: name another --out, or remove it"
        )
    for folder in later:
        say(f"removing {folder}, which is damaged")
        shutil.rmtree(folder)
    link = root.parent / BEST
    if link.is_symlink() and not link.exists():
        link.unlink()
