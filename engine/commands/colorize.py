"""photochrom colorize CHECKPOINT INPUT... --out DIR"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from ...models import Colorizer
from ...pipelines.imaging.decode import Rejected
from ...pipelines.output_dir import SAME_COMMAND, claim_output, differences, write_json
from ..checkpoints.model_file import load_with_metadata
from ..colorization.batch import ColorizeResult, colorize_pictures, failed, summary_of
from ..colorization.contact_sheet import write_contact_sheet
from ..colorization.inputs import Plan, plan
from ..colorization.output_names import CONFIG, SHEET, SUMMARY, check_output_names
from ..colorization.video import colorize_video
from ..configuration.config import Device, save_yaml, to_plain_dict
from ..configuration.parser import parse_options
from ..configuration.registry import import_plugin
from ..console import console, plural, progress_bar
from ..distributed import resolve_device


@dataclass(frozen=True, kw_only=True)
class ColorizeConfig:
    """Colorizes photographs and videos at full resolution, their own lightness kept.

    Args:
        checkpoint: Run folder, checkpoint or model.safetensors.
        inputs: Photographs, videos, folders of them, patterns such as 'album/**/*.jpg', or - for a list on stdin.
        out: Folder for the results; what is in it stays.
        size: Short side in pixels at which the network sees a photograph, or native, as large as it is; by default that
            of its training.
        overwrite: Make anew what is in out already.
        contact_sheet: Write before-after.jpg, photographs beside their results, too.
        batch_size: Frames, or photographs of one size, that go through the network together.
        device: auto, cuda or cpu.
        plugin: Python module to import first, when the model is one of your own.
    """

    checkpoint: Path
    inputs: list[str]
    out: Path
    size: int | Literal["native"] | None = None
    overwrite: bool = False
    contact_sheet: bool = False
    batch_size: int = 8
    device: Device = "auto"
    plugin: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.size, int) and self.size < 8:
            raise ValueError(f"--size {self.size} is below 8, the network's stride")
        if self.batch_size < 1:
            raise ValueError(f"--batch-size {self.batch_size} is not a positive number")


def main(argv: list[str]) -> int:
    config = parse_options(ColorizeConfig, argv, prog="photochrom colorize", positional=("checkpoint", "inputs"))
    device = resolve_device(config.device)
    import_plugin(config.plugin)
    model, metadata = load_with_metadata(config.checkpoint, device)
    todo = plan(config.inputs, config.out, overwrite=config.overwrite)
    size = None if config.size == "native" else config.size or metadata.size
    started = time.perf_counter()
    with claim_output(config.out, check_output_names, resume_hint=SAME_COMMAND):
        if todo.kept:
            _check_kept(config)
        outcomes = list(_outcomes(model, todo, size, device, config.batch_size))
        summary = summary_of(outcomes, todo, time.perf_counter() - started)
        if summary["num_failed"] and not summary["num_done"] + summary["num_kept"]:
            first = summary["failed"][0]
            _say_failed(summary["failed"][1:])
            raise ValueError(
                f"none of the {summary['num_failed']} files can be colorized: {first['path']}: {first['reason']}"
            )
        if config.contact_sheet:
            _write_sheet(outcomes, todo, config.out / SHEET)
        save_yaml(config, config.out / CONFIG)
        write_json(config.out / SUMMARY, summary)
    _say(summary, config.out)
    return 1 if summary["num_failed"] else 0


def _check_kept(config: ColorizeConfig) -> None:
    """Raises ValueError when what is there already was made by another model, or seen at another size."""
    if not (config.out / CONFIG).exists():
        return
    made, now = (
        {name: values[name] for name in ("checkpoint", "size")}
        for values in (yaml.safe_load((config.out / CONFIG).read_text()), to_plain_dict(config))
    )
    if changes := differences(made, now):
        raise ValueError(
            f"{config.out} holds pictures that were made otherwise ({', '.join(changes)}): "
            "--overwrite makes them anew, or name another folder"
        )


def _outcomes(
    model: Colorizer, todo: Plan, size: int | None, device: torch.device, batch_size: int
) -> Iterator[ColorizeResult]:
    """Colorizes all there is to do."""
    pictures = [job for job in todo.jobs if not job.is_video]
    if pictures:
        with progress_bar("colorizing", "photographs") as tell:
            yield from colorize_pictures(
                model, pictures, size=size, device=device, batch_size=batch_size, progress=tell
            )
    for job in (job for job in todo.jobs if job.is_video):
        with progress_bar(f"colorizing {job.source.name}", "frames") as tell:
            try:
                yield colorize_video(model, job, size=size, device=device, batch_size=batch_size, progress=tell)
            except Rejected as rejected:
                yield failed(job, rejected)


def _write_sheet(outcomes: list[ColorizeResult], todo: Plan, path: Path) -> None:
    done = [(it.source, it.target) for it in outcomes if it.reason is None and not it.is_video]
    if pairs := sorted([*done, *((job.source, job.target) for job in todo.kept if not job.is_video)]):
        write_contact_sheet(pairs, path)


def _say(summary: dict[str, Any], out: Path) -> None:
    """The run in some lines; what failed goes to stderr."""
    frames = f" ({plural(summary['num_frames'], 'frame')} of video)" if summary["num_frames"] else ""
    kept = f"; {plural(summary['num_kept'], 'file')} kept as they were" if summary["num_kept"] else ""
    print(
        f"{out}: {plural(summary['num_done'], 'file')} colorized{frames} in {summary['seconds']:.1f} s, "
        f"{summary['images_per_second']:.1f} images/s{kept}"
    )
    if summary["clipped_share"]:
        share = 100 * summary["clipped_share"]
        print(f"  {share:.1f} % of the pixels have less colour than predicted: sRGB shows none as strong there")
    if summary["notes"]:
        notes = ", ".join(f"{number} {note}" for note, number in summary["notes"].items())
        print(f"  beside the colours, {notes}: {out / SUMMARY} says which")
    _say_failed(summary["failed"])


def _say_failed(faults: list[dict[str, str]]) -> None:
    for fault in faults:
        console.print(f"not colorized: {fault['path']}: {fault['reason']}")
