"""Names of the files that describe the results of `photochrom colorize`, in a folder that may hold other files."""

import json
from pathlib import Path

import yaml
from PIL import Image

CONFIG, SUMMARY, SHEET = "config.yaml", "summary.json", "before-after.jpg"
MARK = b"photochrom colorize: before and after"  # the comment in our contact sheets


def check_output_names(out: Path) -> None:
    """Raises ValueError when a file of the user's has the name of one that describes the results."""
    for path in (out / CONFIG, out / SUMMARY, out / SHEET):
        if path.exists() and not _is_ours(path):
            raise ValueError(
                f"{path} was not made by photochrom colorize and would be overwritten: name another folder"
            )


def _is_ours(path: Path) -> bool:
    try:
        if path.name == SHEET:
            with Image.open(path, formats=("JPEG",)) as image:
                return image.info.get("comment") == MARK
        text = path.read_text()
        values, key = (json.loads(text), "num_done") if path.name == SUMMARY else (yaml.safe_load(text), "inputs")
        return isinstance(values, dict) and key in values
    except (OSError, ValueError, yaml.YAMLError):
        return False
