"""A pack's claim to its target folder: nobody else writes there, and what is not finished is of the same pack."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..files import atomic_write, exclusive_lock, sync
from ..shards import MANIFEST

WORK = ".packing"  # the folder of what a pack has not finished
DONE = ".packed"  # and its name when all is


@contextmanager
def claimed(out: Path, identity: dict[str, Any]) -> Iterator[Path]:
    """Makes the target folder, keeps others from it, and yields its folder for what is not finished.

    Raises ValueError when the target holds anything but what a pack of this identity has left, or when another pack is
    at work in it. If what follows fails before anything is finished, nothing stays.
    """
    created = not out.exists()
    try:
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out} is a file: name a new folder")
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write to {out}: {error.strerror}; name another folder") from None
    with exclusive_lock(out):
        work = out / WORK
        _check_target(out, identity)
        try:
            try:
                work.mkdir(exist_ok=True)
                with atomic_write(work / "pack.json") as file:
                    file.write_text(json.dumps(identity))
            except OSError as error:
                raise ValueError(f"cannot write to {out}: {error.strerror}; name another folder") from None
            yield work
        except BaseException as error:
            kept = _leave(out, created)
            if isinstance(error, KeyboardInterrupt) and kept:
                raise KeyboardInterrupt("what is finished stays, and the same command goes on from there") from None
            raise
        work.rename(out / DONE)  # at once: a part of it would be taken for another state of the pack
        sync(out)
        shutil.rmtree(out / DONE)


def _check_target(out: Path, identity: dict[str, Any]) -> None:
    if (out / DONE).exists():  # a pack was stopped when nothing but this was left to do
        shutil.rmtree(out / DONE)
    if not (out / WORK).exists():
        if any((root / MANIFEST).exists() for root in (out, out / "train", out / "test")):
            raise ValueError(f"{out} already holds a shard set: name a new folder, or remove it first")
        if strangers := sorted(path.name for path in out.iterdir()):
            raise ValueError(f"{out} is not empty (it holds {strangers[0]}): name a new folder")
        return
    state = out / WORK / "pack.json"
    before = json.loads(state.read_text()) if state.exists() else identity
    if changed := [name for name in identity if identity[name] != before.get(name)]:
        name = changed[0]
        raise ValueError(
            f"{out} holds an interrupted pack with {name} {before.get(name)}, where this one has {identity[name]}: "
            f"give the same to go on, or remove {out} to begin anew"
        )


def _leave(out: Path, created: bool) -> bool:
    """Removes what would be of no use to a pack that goes on; true if there is something else."""
    work = out / WORK
    if any(work.glob("*/photos-*.json")) or any(work.glob("*/spool/*")):
        return True
    shutil.rmtree(work, ignore_errors=True)
    for root in (out / "train", out / "test", *([out] if created else [])):
        if root.is_dir() and not any(root.iterdir()):
            root.rmdir()
    return False
