"""Colorizes image files in a prefetch pipeline, and summarizes the results of images and videos."""

import errno
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ...models import Colorizer
from ...pipelines.imaging.decode import Rejected
from ...pipelines.system import available_cpus
from .colorize import ColorizedImage, colorize, load_kernels
from .inputs import ColorizePlan, ColorizeTask
from .prefetch import OutOfMemory, Reserve, run_pipeline
from .read_image import SourceImage, read_image
from .write_image import write_image

Progress = Callable[[int, int | None], None]  # called with the number done, and of how many

_MAX_BYTES = 2 << 30  # of images that are read, waiting or being written
_MAX_THREADS = 8  # of readers, and as many of writers


@dataclass(frozen=True, kw_only=True)
class ColorizeResult:
    """The result of a file: number of frames and of pixels in all, or the reason why it failed.

    `clipped` is the share of pixels with reduced chroma; `notes` list what else was changed or lost.
    """

    task: ColorizeTask
    reason: str | None = None
    pixels: int = 0
    num_frames: int = 1
    clipped: float = 0.0
    notes: tuple[str, ...] = ()


def colorize_images(
    model: Colorizer,
    tasks: list[ColorizeTask],
    *,
    size: int | None,
    device: torch.device,
    progress: Progress = lambda done, total: None,
) -> Iterator[ColorizeResult]:
    """Colorizes image files as `colorize` does; yields their results as they are finished.

    Each goes through the network alone, so that its pixels do not depend on what else is colorized. An image that lacks
    memory beside others is repeated at the end, when it has all.
    """

    def read(task: ColorizeTask, reserve: Reserve) -> SourceImage:
        return read_image(task.source, reserve)

    def process(image: SourceImage) -> ColorizedImage:
        return colorize(model, [image.pixels], size=size, device=device)[0]

    load_kernels(device)
    num_done, to_repeat = 0, list[ColorizeTask]()
    num_threads = min(_MAX_THREADS, available_cpus())
    for chosen, max_bytes in ((tasks, _MAX_BYTES), (to_repeat, 0)):
        results = run_pipeline(
            chosen, read=read, process=process, write=_write, num_threads=num_threads, max_bytes=max_bytes
        )
        for task, result in results:
            if isinstance(result, OutOfMemory) and max_bytes:
                to_repeat.append(task)
                continue
            num_done += 1
            progress(num_done, len(tasks))
            yield ColorizeResult(task=task, reason=str(result)) if isinstance(result, Rejected) else result


def _write(task: ColorizeTask, image: SourceImage, colorized: ColorizedImage) -> ColorizeResult:
    with target_folder(task.target):
        notes = write_image(replace(image, pixels=colorized.pixels), task.target)
    height, width, _ = colorized.pixels.shape
    return ColorizeResult(task=task, pixels=height * width, clipped=colorized.clipped, notes=notes)


@contextmanager
def target_folder(target: Path) -> Iterator[None]:
    """Makes a target's folder; raises Rejected when the target's name is too long, or taken by a file or folder."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise Rejected("name too long", "with .png or .mkv appended") from None
        if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
            raise Rejected("name taken", f"{target}: {error.strerror}") from None
        raise


def summarize(results: list[ColorizeResult], plan: ColorizePlan, seconds: float) -> dict[str, Any]:
    """Returns the content of summary.json."""
    done = [result for result in results if not result.reason]
    # A file seen is done, kept, failed or not taken.
    failed = [*plan.unreadable, *((result.task.source, result.reason) for result in results if result.reason)]
    num_images = sum(not result.task.is_video for result in done)
    num_frames = sum(result.num_frames for result in done if result.task.is_video)
    pixels = sum(result.pixels for result in done)
    return {
        "num_seen": len(done) + len(plan.kept) + len(failed) + len(plan.not_taken),
        "num_done": len(done),
        "num_kept": len(plan.kept),
        "num_failed": len(failed),
        "num_not_taken": len(plan.not_taken),
        "failed": [{"path": str(path), "reason": reason} for path, reason in failed],
        "not_taken": [{"path": str(path), "reason": reason} for path, reason in plan.not_taken],
        "num_frames": num_frames,
        "seconds": round(seconds, 3),
        "images_per_second": round((num_images + num_frames) / seconds, 3),
        "megapixels_per_second": round(pixels / 1e6 / seconds, 3),
        "clipped_share": sum(result.clipped * result.pixels for result in done) / max(1, pixels),
        "notes": dict(Counter(note for result in done for note in result.notes).most_common()),
        "files": [
            {
                "path": str(result.task.source),
                "output": str(result.task.target),
                "clipped_share": round(result.clipped, 6),
                "notes": list(result.notes),
            }
            for result in done
        ],
    }
