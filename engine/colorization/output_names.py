"""Names of the files that describe the results of `photochrom colorize`, in a folder that may hold other files."""

import json
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

CONFIG, SUMMARY, SHEET = "config.yaml", "summary.json", "before-after.jpg"
MARK = b"photochrom colorize: before and after"  # the comment of a sheet of ours


def check_output_names(out: Path) -> None:
    """Raises ValueError when a file of the user's has the name of one that describes the results."""
    for name, is_ours in _OURS.items():
        if (out / name).exists() and not is_ours(out / name):
            raise ValueError(
                f"{out / name} was not made by photochrom colorize and would be overwritten: name another folder"
            )


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
