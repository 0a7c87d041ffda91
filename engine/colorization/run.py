"""Runs `photochrom colorize`: plans the files, colorizes them and describes the results in the output folder."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from ...models import Colorizer
from ...pipelines.files import sha256_of
from ...pipelines.imaging.decode import Rejected
from ...pipelines.output_dir import SAME_COMMAND, claim_output, write_json
from ...pipelines.structured import read_json, validated
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
from .prefetch import attempt

INSTALL_AV = "videos need PyAV: pip install av, or in a clone pip install -e '.[video]'"

_CONFIG, _SUMMARY, _SHEET, _MAKERS = "config.yaml", "summary.json", "before-after.jpg", ".made-by.json"


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
    with claim_output(config.out, _check_names, resume_hint=SAME_COMMAND), _recording(config.out, plan, maker):
        results = list(_colorize(model, plan, None if size == "native" else size, device, config.batch_size))
        summary = summarize(results, plan, time.perf_counter() - started)
        if summary["num_failed"] and not summary["num_done"] + summary["num_kept"]:
            first, *others = summary["failed"]
            print_failures(others)
            raise ValueError(
                f"none of the {summary['num_failed']} files can be colorized: {first['path']}: {first['reason']}"
            )
        if config.overwrite and not _has_older_results(config.out, plan, results):
            write_json(config.out / _MAKERS, to_plain_dict([maker]))
        if config.contact_sheet:
            _write_contact_sheet(results, plan, config.out / _SHEET)
        save_yaml(replace(config, model=Path(maker.model), size=size), config.out / _CONFIG)
        write_json(config.out / _SUMMARY, summary)
    return summary


def print_failures(failures: list[dict[str, str]]) -> None:
    """Prints a summary's failures to stderr, one a line."""
    for failure in failures:
        console.print(f"not colorized: {failure['path']}: {failure['reason']}")


def _check_names(out: Path) -> None:
    """Raises ValueError when a file of the user's has the name of one that describes the results."""
    for path in (out / _CONFIG, out / _SUMMARY, out / _SHEET):
        if path.exists() and not (_is_our_sheet(path) if path.name == _SHEET else (out / _MAKERS).exists()):
            raise ValueError(
                f"{path} was not made by photochrom colorize and would be overwritten: name another folder"
            )


def _is_our_sheet(path: Path) -> bool:
    try:
        with Image.open(path, formats=("JPEG",)) as image:
            return image.info.get("comment") == MARK
    except OSError:
        return False


@contextmanager
def _recording(out: Path, plan: ColorizePlan, now: _Maker) -> Iterator[None]:
    """Records the model and the size before the first result.

    Raises ValueError when results would be kept that another model made, or the same one at another size.
    """
    path = out / _MAKERS
    before = validated(list[_Maker], read_json(path), str(path)) if path.exists() and _holds_results(out) else []
    others = [maker for maker in before if (maker.sha256, maker.size) != (now.sha256, now.size)]
    if others and plan.kept:
        raise ValueError(
            f"the results in {out} were made by another model or at another size ({others[-1]}; now {now}): "
            "--overwrite makes them again, or name another folder"
        )
    write_json(path, to_plain_dict([*others, now]))
    try:
        yield
    except BaseException:
        if not _holds_results(out):
            path.unlink()
        raise


def _holds_results(out: Path) -> bool:
    return any(path.name not in (_CONFIG, _SUMMARY, _SHEET, _MAKERS) for path in out.iterdir())


def _has_older_results(out: Path, plan: ColorizePlan, results: list[ColorizeResult]) -> bool:
    """Returns whether `out` holds files that may be results of earlier runs."""
    done = {os.path.realpath(result.task.target) for result in results if not result.reason}
    known = done | {os.path.realpath(task.source) for task in plan.tasks} | {os.path.realpath(out / _SHEET)}
    return any(os.path.realpath(path) not in known for path in out.rglob("*") if may_be_result(path))


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
            except ModuleNotFoundError:
                yield ColorizeResult(task=task, reason=f"unreadable: {INSTALL_AV}")
                continue
            video = partial(colorize_video, model, task, size=size, device=device, batch_size=batch_size)
            result = attempt(partial(video, progress=progress))
        yield ColorizeResult(task=task, reason=str(result)) if isinstance(result, Rejected) else result


def _write_contact_sheet(results: list[ColorizeResult], plan: ColorizePlan, path: Path) -> None:
    tasks = [*(result.task for result in results if not result.reason), *plan.kept]
    if pairs := sorted((task.source, task.target) for task in tasks if not task.is_video):
        write_contact_sheet(pairs, path)
