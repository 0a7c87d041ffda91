"""Runs `photochrom colorize`: plans the files, colorizes them and describes the results in the output folder."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

from ...models import Colorizer
from ...pipelines.imaging.decode import Rejected
from ...pipelines.output_dir import SAME_COMMAND, claim_output, differences, write_json
from ..checkpoints.model_file import load_with_metadata
from ..checkpoints.pretrained import DEFAULT, default_model
from ..configuration.config import save_yaml, to_plain_dict
from ..configuration.registry import import_plugin
from ..console import console, progress_bar
from ..distributed import resolve_device
from .batch import ColorizeResult, colorize_images, summarize
from .config import ColorizeConfig
from .contact_sheet import MARK, write_contact_sheet
from .inputs import ColorizePlan, make_plan

INSTALL_AV = "videos need PyAV: pip install av, or in a clone pip install -e '.[video]'"

_CONFIG, _SUMMARY, _SHEET = "config.yaml", "summary.json", "before-after.jpg"


def colorize_files(config: ColorizeConfig) -> dict[str, Any]:
    """Colorizes the files of a configuration; returns the summary, which it also writes to the output folder.

    Raises ValueError when no file can be colorized.
    """
    device = resolve_device(config.device)
    import_plugin(config.plugin)
    model, metadata = load_with_metadata(config.model or default_model(), device)
    config = replace(config, model=config.model or Path(DEFAULT))
    plan = make_plan(config.inputs, config.out, overwrite=config.overwrite)
    size = None if config.size == "native" else config.size or metadata.size
    started = time.perf_counter()
    with claim_output(config.out, _check_names, resume_hint=SAME_COMMAND):
        if plan.kept:
            _check_kept(config)
        results = list(_colorize(model, plan, size, device, config.batch_size))
        summary = summarize(results, plan, time.perf_counter() - started)
        if summary["num_failed"] and not summary["num_done"] + summary["num_kept"]:
            first, *others = summary["failed"]
            print_failures(others)
            raise ValueError(
                f"none of the {summary['num_failed']} files can be colorized: {first['path']}: {first['reason']}"
            )
        if config.contact_sheet:
            _write_contact_sheet(results, plan, config.out / _SHEET)
        save_yaml(config, config.out / _CONFIG)
        write_json(config.out / _SUMMARY, summary)
    return summary


def print_failures(failures: list[dict[str, str]]) -> None:
    """Prints a summary's failures to stderr, one a line."""
    for failure in failures:
        console.print(f"not colorized: {failure['path']}: {failure['reason']}")


def _check_names(out: Path) -> None:
    """Raises ValueError when a file of the user's has the name of one that describes the results."""
    for path in (out / _CONFIG, out / _SUMMARY, out / _SHEET):
        if path.exists() and not _is_ours(path):
            raise ValueError(
                f"{path} was not made by photochrom colorize and would be overwritten: name another folder"
            )


def _is_ours(path: Path) -> bool:
    try:
        if path.name == _SHEET:
            with Image.open(path, formats=("JPEG",)) as image:
                return image.info.get("comment") == MARK
        text = path.read_text()
        values, key = (json.loads(text), "num_done") if path.name == _SUMMARY else (yaml.safe_load(text), "inputs")
        return isinstance(values, dict) and key in values
    except (OSError, ValueError, yaml.YAMLError):
        return False


def _check_kept(config: ColorizeConfig) -> None:
    """Raises ValueError when the results in the output folder were made by another model or at another size."""
    if not (config.out / _CONFIG).exists():
        return
    before, now = (
        {name: values[name] for name in ("model", "size")}
        for values in (yaml.safe_load((config.out / _CONFIG).read_text()), to_plain_dict(config))
    )
    if changes := differences(before, now):
        raise ValueError(
            f"the results in {config.out} were made with other options ({', '.join(changes)}): "
            "--overwrite makes them again, or name another folder"
        )


def _colorize(
    model: Colorizer, plan: ColorizePlan, size: int | None, device: torch.device, batch_size: int
) -> Iterator[ColorizeResult]:
    if images := [task for task in plan.tasks if not task.is_video]:
        with progress_bar("colorizing", "images") as progress:
            yield from colorize_images(
                model, images, size=size, device=device, batch_size=batch_size, progress=progress
            )
    for task in (task for task in plan.tasks if task.is_video):
        with progress_bar(f"colorizing {task.source.name}", "frames") as progress:
            try:
                from .video import colorize_video  # imports PyAV, which is optional

                yield colorize_video(model, task, size=size, device=device, batch_size=batch_size, progress=progress)
            except ModuleNotFoundError:
                yield ColorizeResult(task=task, reason=f"unreadable: {INSTALL_AV}")
            except Rejected as rejected:
                yield ColorizeResult(task=task, reason=str(rejected))


def _write_contact_sheet(results: list[ColorizeResult], plan: ColorizePlan, path: Path) -> None:
    tasks = [*(result.task for result in results if not result.reason), *plan.kept]
    if pairs := sorted((task.source, task.target) for task in tasks if not task.is_video):
        write_contact_sheet(pairs, path)
