"""Colorizes the files of a plan: pictures while others are read and written, then videos; says what came of each."""

import errno
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ...models import Colorizer
from ...pipelines.imaging.decode import Rejected
from ...pipelines.loading.threads import own_cores
from .colorize import Colored, colorize
from .inputs import ColorizeTask, Plan
from .prefetch import Reserve, overlapped
from .read_image import Picture, read_picture
from .write_image import write_picture

Progress = Callable[[int, int | None], None]

_MEMORY = 2 << 30  # bytes of pictures that are read, waiting or being written
_THREADS = 8  # that read, and as many that write


@dataclass(frozen=True, kw_only=True)
class ColorizeResult:
    """What came of a file: `num_frames` pictures of so many pixels in all, or the reason why nothing did.

    `clipped` is the share of the pixels for which sRGB has no colour as strong as the predicted one; `notes` say what
    was changed or lost beside the colours.
    """

    source: Path
    target: Path
    is_video: bool = False
    reason: str | None = None
    pixels: int = 0
    num_frames: int = 1
    clipped: float = 0.0
    notes: tuple[str, ...] = ()


def colorize_pictures(
    model: Colorizer,
    jobs: list[ColorizeTask],
    *,
    size: int | None,
    device: torch.device,
    batch_size: int,
    progress: Progress = lambda done, total: None,
) -> Iterator[ColorizeResult]:
    """Colorizes picture files, as `colorize` does, and says of each what came of it, as they are finished."""

    def read(job: ColorizeTask, reserve: Reserve) -> Picture:
        return read_picture(job.source, reserve)

    def work(pictures: list[Picture]) -> list[Colored]:
        return colorize(model, [picture.pixels for picture in pictures], size=size, device=device)

    finished = overlapped(
        jobs,
        read=read,
        work=work,
        write=_write,
        together=batch_size,
        threads=min(_THREADS, own_cores()),
        memory=_MEMORY,
    )
    for done, (job, outcome) in enumerate(finished, start=1):
        progress(done, len(jobs))
        yield failed(job, outcome) if isinstance(outcome, Rejected) else outcome


def failed(job: ColorizeTask, rejected: Rejected) -> ColorizeResult:
    """The outcome of a file that could not be colorized."""
    return ColorizeResult(source=job.source, target=job.target, is_video=job.is_video, reason=str(rejected))


def _write(job: ColorizeTask, picture: Picture, colored: Colored) -> ColorizeResult:
    with place_for(job.target):
        notes = write_picture(replace(picture, pixels=colored.pixels), job.target)
    height, width, _ = colored.pixels.shape
    return ColorizeResult(
        source=job.source, target=job.target, pixels=height * width, clipped=colored.clipped, notes=notes
    )


@contextmanager
def place_for(target: Path) -> Iterator[None]:
    """Makes the folders for a file; raises Rejected when its name is in the way, too long, or a folder's."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise Rejected("with .png or .mkv at its end, its name is too long") from None
        if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
            raise Rejected("no place", f"{target}: {error.strerror}") from None
        raise


def summary_of(outcomes: Iterable[ColorizeResult], plan: Plan, seconds: float) -> dict[str, Any]:
    """What summary.json says of a run."""
    done = [outcome for outcome in outcomes if outcome.reason is None]
    faults = [*plan.unread, *((outcome.source, outcome.reason) for outcome in outcomes if outcome.reason is not None)]
    pictures = [outcome for outcome in done if not outcome.is_video]
    frames = sum(outcome.num_frames for outcome in done if outcome.is_video)
    pixels = sum(outcome.pixels for outcome in done)
    return {
        "num_done": len(done),
        "num_kept": len(plan.kept),
        "num_failed": len(faults),
        "failed": [{"path": str(path), "reason": reason} for path, reason in faults],
        "num_frames": frames,
        "seconds": round(seconds, 3),
        "images_per_second": round((len(pictures) + frames) / seconds, 3),
        "megapixels_per_second": round(pixels / 1e6 / seconds, 3),
        "clipped_share": sum(outcome.clipped * outcome.pixels for outcome in done) / max(1, pixels),
        "notes": dict(Counter(note for outcome in done for note in outcome.notes).most_common()),
        "files": [
            {
                "path": str(outcome.source),
                "output": str(outcome.target),
                "clipped_share": round(outcome.clipped, 6),
                "notes": list(outcome.notes),
            }
            for outcome in done
        ],
    }
