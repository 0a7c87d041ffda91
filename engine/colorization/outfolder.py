"""A folder that results are added to: what a person keeps there stays, and one process at a time writes there."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from ...pipelines.files import exclusive_lock
from ..output_dir import check_writable

CONFIG, SUMMARY, SHEET = "config.yaml", "summary.json", "before-after.jpg"
MARK = b"photochrom colorize: before and after"  # the comment of a sheet of ours


@contextmanager
def results_folder(out: Path) -> Iterator[None]:
    """The folder for what follows, made if need be; if that fails before the first result, a new folder goes again.

    Raises ValueError when it cannot be written, another process is at it, or a file of somebody else's has the name of
    one that describes the results.
    """
    created = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        check_writable(out)
    except OSError as error:
        raise ValueError(f"cannot write to {out}: {error.strerror}; name another folder") from None
    for name, is_ours in _OURS.items():
        if (out / name).exists() and not is_ours(out / name):
            raise ValueError(
                f"{out / name} is not of photochrom colorize, and would be written over: name another folder"
            )
    with exclusive_lock(out):
        try:
            yield
        except BaseException as error:
            if any(path.is_file() for path in out.rglob("*")):
                if isinstance(error, KeyboardInterrupt):
                    raise KeyboardInterrupt("what is finished stays, and the same command goes on from there") from None
            elif created:
                shutil.rmtree(out)
            raise


def _has_key(values: Any, key: str) -> bool:
    return isinstance(values, dict) and key in values


def _is_our_config(path: Path) -> bool:
    try:
        return _has_key(yaml.safe_load(path.read_text()), "inputs")
    except (OSError, ValueError, yaml.YAMLError):
        return False


def _is_our_summary(path: Path) -> bool:
    try:
        return _has_key(json.loads(path.read_text()), "num_done")
    except (OSError, ValueError):
        return False


def _is_our_sheet(path: Path) -> bool:
    try:
        with Image.open(path, formats=("JPEG",)) as image:
            return image.info.get("comment") == MARK
    except OSError:
        return False


_OURS = {CONFIG: _is_our_config, SUMMARY: _is_our_summary, SHEET: _is_our_sheet}
