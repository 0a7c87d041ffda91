"""Runs `photochrom colorize`: plans the files, colorizes them and describes the results in the output folder."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from ...models import Colorizer
from ...pipelines.imaging.decode import Rejected
from ...pipelines.output_dir import SAME_COMMAND, claim_output, differences, write_json
from ..checkpoints.model_file import load_with_metadata
from ..configuration.config import save_yaml, to_plain_dict
from ..configuration.registry import import_plugin
from ..console import console, progress_bar
from ..distributed import resolve_device
from .batch import ColorizeResult, colorize_images, summarize
from .config import ColorizeConfig
from .contact_sheet import write_contact_sheet
from .inputs import ColorizePlan, make_plan
from .output_names import CONFIG, SHEET, SUMMARY, check_output_names
from .video import colorize_video


def colorize_files(config: ColorizeConfig) -> dict[str, Any]:
    """Colorizes the files of a configuration; returns the summary, which it also writes to the output folder.

    Raises ValueError when no file can be colorized.
    """
    device = resolve_device(config.device)
    import_plugin(config.plugin)
    model, metadata = load_with_metadata(config.checkpoint, device)
    plan = make_plan(config.inputs, config.out, overwrite=config.overwrite)
    size = None if config.size == "native" else config.size or metadata.size
    started = time.perf_counter()
    with claim_output(config.out, check_output_names, resume_hint=SAME_COMMAND):
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
            _write_contact_sheet(results, plan, config.out / SHEET)
        save_yaml(config, config.out / CONFIG)
        write_json(config.out / SUMMARY, summary)
    return summary


def print_failures(failures: list[dict[str, str]]) -> None:
    """Prints a summary's failures to stderr, one a line."""
    for failure in failures:
        console.print(f"not colorized: {failure['path']}: {failure['reason']}")


def _check_kept(config: ColorizeConfig) -> None:
    """Raises ValueError when the results in the output folder were made by another model or at another size."""
    if not (config.out / CONFIG).exists():
        return
    before, now = (
        {name: values[name] for name in ("checkpoint", "size")}
        for values in (yaml.safe_load((config.out / CONFIG).read_text()), to_plain_dict(config))
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
                yield colorize_video(model, task, size=size, device=device, batch_size=batch_size, progress=progress)
            except Rejected as rejected:
                yield ColorizeResult(task=task, reason=str(rejected))


def _write_contact_sheet(results: list[ColorizeResult], plan: ColorizePlan, path: Path) -> None:
    tasks = [*(result.task for result in results if not result.reason), *plan.kept]
    if pairs := sorted((task.source, task.target) for task in tasks if not task.is_video):
        write_contact_sheet(pairs, path)
