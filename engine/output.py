"""Folders that verbs make: claimed before work begins, described when it ends."""

import json
from pathlib import Path
from typing import Any


def new_folder(path: Path) -> Path:
    """Makes an empty folder for results. Raises ValueError when it is in use or cannot be written."""
    try:
        if path.is_dir() and any(path.iterdir()):
            raise ValueError(f"{path} is not empty: name a new folder for the results, or remove it first")
        path.mkdir(parents=True, exist_ok=True)
        check_writable(path)
    except OSError as error:
        raise ValueError(f"cannot write to {path}: {error.strerror}") from None
    return path


def check_writable(folder: Path) -> None:
    """Raises OSError when no file can be made in the folder."""
    probe = folder / ".photochrom-probe"
    probe.touch()
    probe.unlink()


def write_json(path: Path, values: Any) -> None:
    """Writes a machine-readable file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(values, indent=1) + "\n")
    temporary.rename(path)
