"""Checks and claims what a command writes: a folder for one process, a file that may be written.

A folder must be empty, or hold what the same command left there. Folders without files count as empty.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from .files import atomic_write, exclusive_lock, sync
from .remote import check_local
from .structured import read_json

_IDENTITY = "identity.json"
SAME_COMMAND = "what is finished is kept, and the same command continues from there"
_NOTHING_KEPT = "nothing was finished yet, so nothing is kept"


@contextmanager
def claim_output(out: Path, check: Callable[[Path], None] | None = None, *, resume_hint: str = "") -> Iterator[None]:
    """Makes the folder `out` if needed, and locks it against other processes.

    `check(out)` raises ValueError when the folder holds files that must not be mixed with the results. If the block
    fails before there is a file, a folder that was made here is removed. After Ctrl-C, `resume_hint` tells the user how
    to continue.

    Raises ValueError when the folder cannot be written or another process has locked it.
    """
    check_local(out, "the output folder")
    _check_tilde(out)
    created = not out.exists()
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: name a new folder")
    with _explained(out):
        out.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=out).close()  # raises if no file can be made there
    with exclusive_lock(out):
        try:
            if check:
                check(out)
            yield
        except BaseException as error:
            empty = not _holds_files(out)
            if empty and created:
                shutil.rmtree(out)
            if resume_hint and isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(_NOTHING_KEPT if empty else resume_hint) from None
            raise


@contextmanager
def claim_resumable_output(
    out: Path,
    identity: dict[str, Any],
    *,
    job: str,
    work_name: str,
    resume: bool = True,
    resume_hint: str = SAME_COMMAND,
) -> Iterator[Path]:
    """Claims `out` for a job that can be interrupted, and yields the folder `out / work_name` for unfinished work.

    That folder is removed when the block ends, or fails while no file in it has content. `identity`, plain JSON, is
    what an interrupted job and the one that continues it must have in common. `job` is a noun for messages.

    Raises ValueError when `out` holds anything but an interrupted job of this identity, or when it holds one and
    `resume` is false.
    """
    work, finished = out / work_name, out / f"{work_name}-finished"

    def check(out: Path) -> None:
        if finished.exists():  # the job was stopped while it removed this
            shutil.rmtree(finished)
        check_holds(out, work_name, f"unfinished {job}, perhaps a finished one")
        if work.exists():
            _check_identity(out, work / _IDENTITY, identity, job, resume)

    with claim_output(out, check, resume_hint=resume_hint):
        with _explained(out):
            work.mkdir(exist_ok=True)
            write_json(work / _IDENTITY, identity)
        try:
            yield work
        except BaseException:
            if not _holds_content(work):
                shutil.rmtree(work, ignore_errors=True)
            raise
        work.rename(finished)  # in one step: half of the folder would look like another state of the job
        sync(out)
        shutil.rmtree(finished)


def _check_identity(out: Path, path: Path, identity: dict[str, Any], job: str, resume: bool) -> None:
    if not resume:
        raise ValueError(f"{out} holds an unfinished {job}: continue it with --resume, or name a new folder")
    before = read_json(path) if path.exists() else identity
    if changes := differences(before, identity):
        raise ValueError(
            f"{out} holds an unfinished {job} with other settings or files ({'; '.join(changes)}): set them as they "
            "were to continue it, or name a new folder"
        )


def check_holds(out: Path, marker: str, what: str) -> None:
    """Raises ValueError when the folder `out` holds files but not `marker`, the name by which `what` is known."""
    if not (out / marker).exists() and _holds_files(out):
        first = min(path.name for path in out.iterdir())
        raise ValueError(f"{out} is not empty (it holds {first}) and holds no {what}: name a new folder")


def check_output_file(path: Path, *suffixes: str, name: str = "--out", new: bool = False) -> None:
    """Raises ValueError when the file `path`, named by the option `name`, cannot be written.

    Its name must end in one of `suffixes`, if there are any, and its folder must exist. A `new` file must not exist;
    its folder need not exist, and is made by whoever writes the file.
    """
    _check_tilde(path)
    if suffixes and path.suffix not in suffixes:
        raise ValueError(f"{name} {path} does not end in {' or '.join(suffixes)}: name such a file")
    if new and path.exists():
        raise ValueError(f"{name} {path} exists: name a new file, or remove it first")
    if path.parent.is_dir():
        with _explained(path.parent):
            TemporaryFile(dir=path.parent).close()
    elif not new:
        raise ValueError(f"{name} {path} is in a folder that does not exist: make {path.parent} first")


def _check_tilde(path: Path) -> None:
    """Raises ValueError for a path that begins with ~, which the shell should have replaced by the home folder."""
    if (home := os.path.expanduser(path)) != str(path) and not os.path.lexists(path.parts[0]):
        raise ValueError(
            f"{path} begins with ~, which no shell has replaced: write {home}, or make a folder {path.parts[0]} first"
        )


def differences(before: Any, now: Any, prefix: str = "") -> list[str]:
    """Returns a line 'key: before -> now' for every value in which two plain configurations differ."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [f"{prefix}: {before} -> {now}"]
    keys = [*before, *(key for key in now if key not in before)]
    return [
        line
        for key in keys
        for line in differences(before.get(key), now.get(key), f"{prefix}.{key}" if prefix else str(key))
    ]


def write_json(path: Path, values: Any) -> None:
    """Writes `values` as an indented JSON file, whole or not at all."""
    with atomic_write(path) as file:
        file.write_text(json.dumps(values, indent=1) + "\n")


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Raises ValueError with one sentence for an OSError."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"cannot write to {folder}: {error.strerror}; name another folder") from None


def _holds_files(folder: Path) -> bool:
    return any(not path.is_dir() for path in folder.rglob("*"))


def _holds_content(work: Path) -> bool:
    return any(path.is_file() and path.stat().st_size and path.name != _IDENTITY for path in work.rglob("*"))
