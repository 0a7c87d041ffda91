"""Folders and files that verbs make: claimed before work begins, and whole whenever they are seen."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def new_folder(path: Path) -> Iterator[None]:
    """Makes a folder for the results of what follows; if that fails before the first of them, the folder goes again.

    Raises ValueError when the folder is in use or cannot be written.
    """
    created = not path.exists()
    try:
        if path.is_dir() and any(path.iterdir()):
            raise ValueError(f"{path} is not empty: name a new folder for the results, or remove it first")
        path.mkdir(parents=True, exist_ok=True)
        check_writable(path)
    except OSError as error:
        raise ValueError(f"cannot write to {path}: {error.strerror}") from None
    try:
        yield
    except BaseException:
        if created and not any(path.iterdir()):
            path.rmdir()
        raise


def check_writable(folder: Path) -> None:
    """Raises OSError when no file can be made in the folder."""
    probe = folder / ".photochrom-probe"
    probe.touch()
    probe.unlink()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place to write a file to, which then appears under its name at once and durably, or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.rename(path)
        sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Makes a file, or a folder's list of names, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, values: Any) -> None:
    """Writes a machine-readable file."""
    with whole_file(path) as file:
        file.write_text(json.dumps(values, indent=1) + "\n")
