"""Folders and files that verbs make: claimed before work begins, described when it ends."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..pipelines.files import atomic_write
from ..pipelines.shards import REJECTS


@contextmanager
def new_folder(path: Path) -> Iterator[None]:
    """Makes a folder for the results of what follows; if that fails before the first of them, the folder goes again.

    Raises ValueError when the folder is in use or cannot be written.
    """
    created = not path.exists()
    try:
        if path.is_dir() and any(path.iterdir()):
            raise ValueError(f"{path} is not empty: name a new folder for the results")
        path.mkdir(parents=True, exist_ok=True)
        check_writable(path)
    except OSError as error:
        raise ValueError(f"cannot write to {path}: {error.strerror}; name another folder") from None
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


def say_outcomes(folders: Iterable[Path], summary: dict[str, Any]) -> None:
    """Prints what was not taken into a shard set, and why; the rejected are listed in the folders."""
    for outcome in ("dropped", "rejected"):
        if reasons := ", ".join(f"{number} {reason}" for reason, number in summary[outcome].items()):
            listed = f", listed in {', '.join(str(folder / REJECTS) for folder in folders)}"
            print(f"  {outcome}: {reasons}{listed if outcome == 'rejected' else ''}")


def plural(number: int, noun: str, ending: str = "s") -> str:
    """The number with the noun, which gets the ending unless it is one."""
    return f"{number:,} {noun}{'' if number == 1 else ending}"


def write_json(path: Path, values: Any) -> None:
    """Writes a machine-readable file."""
    with atomic_write(path) as file:
        file.write_text(json.dumps(values, indent=1) + "\n")
