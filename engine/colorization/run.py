"""Runs `photochrom colorize`: plans the files, colorizes them and describes the results in the output folder."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from PIL import Image
from pydantic import TypeAdapter

from ...models import Colorizer
from ...pipelines.files import sha256_of
from ...pipelines.imaging.decode import Rejected
from ...pipelines.output_dir import SAME_COMMAND, claim_output, write_json
from ..checkpoints.model_file import load_with_metadata, model_file
from ..checkpoints.pretrained import DEFAULT, default_model
from ..configuration.config import save_yaml, to_plain_dict
from ..configuration.registry import import_plugin
from ..console import console, progress_bar
from ..distributed import resolve_device
from .batch import ColorizeResult, colorize_images, summarize
from .config import ColorizeConfig
from .contact_sheet import MARK, write_contact_sheet
from .inputs import ColorizePlan, make_plan, may_be_result
from .prefetch import rejecting_out_of_memory

INSTALL_AV = "videos need PyAV: pip install av, or in a clone pip install -e '.[video]'"

_CONFIG, _SUMMARY, _SHEET = "config.yaml", "summary.json", "before-after.jpg"


@dataclass(frozen=True, kw_only=True)
class _Maker:
    """A model, known by the sha256 of its file, and the size at which it makes results."""

    model: str
    sha256: str
    size: int | Literal["native"]

    def __str__(self) -> str:
        return f"{self.model} with sha256 {self.sha256[:12]} at size {self.size}"


def colorize_files(config: ColorizeConfig) -> dict[str, Any]:
    """Colorizes the files of a configuration; returns the summary, which it also writes to the output folder.

    Raises ValueError when no file can be colorized.
    """
    device = resolve_device(config.device)
    import_plugin(config.plugin)
    file = model_file(config.model or default_model())
    model, metadata = load_with_metadata(file, device)
    size = config.size or metadata.size
    maker = _Maker(model=str(config.model or DEFAULT), sha256=sha256_of(file), size=size)
    plan = make_plan(config.inputs, config.out, overwrite=config.overwrite)
    started = time.perf_counter()
    with claim_output(config.out, _check_names, resume_hint=SAME_COMMAND), _recording(config, plan, maker):
        results = list(_colorize(model, plan, None if size == "native" else size, device, config.batch_size))
        summary = summarize(results, plan, time.perf_counter() - started)
        if summary["num_failed"] and not summary["num_done"] + summary["num_kept"]:
            first, *others = summary["failed"]
            print_failures(others)
            raise ValueError(
                f"none of the {summary['num_failed']} files can be colorized: {first['path']}: {first['reason']}"
            )
        if config.overwrite and not _older_results(config.out, plan, results):
            _write_config(config, [maker])
        if config.contact_sheet:
            _write_contact_sheet(results, plan, config.out / _SHEET)
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
        if path.name == _CONFIG:
            return bool(_read_makers(path))
        summary = json.loads(path.read_text())
        return isinstance(summary, dict) and "num_done" in summary
    except (OSError, ValueError, RecursionError):
        return False


def _read_makers(config: Path) -> list[_Maker]:
    """Returns what the results beside a config.yaml were made by; raises ValueError when the file is not ours."""
    try:
        return TypeAdapter(list[_Maker]).validate_python(yaml.safe_load(config.read_text())["made_by"])
    except (yaml.YAMLError, KeyError, TypeError):
        raise ValueError(f"{config} was not made by photochrom colorize") from None


@contextmanager
def _recording(config: ColorizeConfig, plan: ColorizePlan, now: _Maker) -> Iterator[None]:
    """Writes config.yaml, which says what makes the results, before there are any.

    Raises ValueError when results would be kept that another model made, or the same one at another size.
    """
    path = config.out / _CONFIG
    before = _read_makers(path) if path.exists() and _holds_results(config.out) else []
    others = [maker for maker in before if (maker.sha256, maker.size) != (now.sha256, now.size)]
    if others and plan.kept:
        raise ValueError(
            f"the results in {config.out} were made by another model or at another size ({others[-1]}; now {now}): "
            "--overwrite makes them again, or name another folder"
        )
    _write_config(config, [*others, now])
    try:
        yield
    except BaseException:
        if not _holds_results(config.out):
            path.unlink()
        raise


def _holds_results(out: Path) -> bool:
    return any(path.name not in (_CONFIG, _SUMMARY, _SHEET) for path in out.iterdir())


def _older_results(out: Path, plan: ColorizePlan, results: list[ColorizeResult]) -> set[str]:
    """Returns the files in `out` that may be results, but are none of this run's, nor its originals."""
    done = {os.path.realpath(result.task.target) for result in results if not result.reason}
    known = done | {os.path.realpath(task.source) for task in plan.tasks} | {os.path.realpath(out / _SHEET)}
    return {os.path.realpath(path) for path in out.rglob("*") if may_be_result(path)} - known


def _write_config(config: ColorizeConfig, makers: list[_Maker]) -> None:
    resolved = replace(config, model=Path(makers[-1].model), size=makers[-1].size)
    save_yaml({**to_plain_dict(resolved), "made_by": to_plain_dict(makers)}, config.out / _CONFIG)


def _colorize(
    model: Colorizer, plan: ColorizePlan, size: int | None, device: torch.device, batch_size: int
) -> Iterator[ColorizeResult]:
    if images := [task for task in plan.tasks if not task.is_video]:
        with progress_bar("colorizing", "images") as progress:
            yield from colorize_images(model, images, size=size, device=device, progress=progress)
    for task in (task for task in plan.tasks if task.is_video):
        with progress_bar(f"colorizing {task.source.name}", "frames") as progress:
            try:
                from .video import colorize_video  # imports PyAV, which is optional

                with rejecting_out_of_memory():
                    result = colorize_video(
                        model, task, size=size, device=device, batch_size=batch_size, progress=progress
                    )
            except ModuleNotFoundError:
                result = ColorizeResult(task=task, reason=f"unreadable: {INSTALL_AV}")
            except Rejected as rejected:
                result = ColorizeResult(task=task, reason=str(rejected))
        yield result


def _write_contact_sheet(results: list[ColorizeResult], plan: ColorizePlan, path: Path) -> None:
    tasks = [*(result.task for result in results if not result.reason), *plan.kept]
    if pairs := sorted((task.source, task.target) for task in tasks if not task.is_video):
        write_contact_sheet(pairs, path)
