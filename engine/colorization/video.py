"""Colorizes videos: decoding, network and encoding at once; sound and subtitles are copied."""

# Shapes: H W pixels.

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ...models import Colorizer
from ...pipelines.files import atomic_write
from ...pipelines.imaging.decode import Rejected
from .batch import ColorizeResult, place_for
from .colorize import Colored, colorize
from .inputs import ColorizeTask
from .prefetch import ahead

if TYPE_CHECKING:
    from .video_reader import Item

INSTALL_AV = "videos need PyAV: pip install av, or in a clone pip install -e '.[video]'"

_AHEAD = 2  # batches that wait between decoding and network, and between network and encoding
_BATCH_PIXELS = 40_000_000  # of frames that are one batch: 4 of 4K
_MOST_PACKETS = 256  # that come with a batch


def colorize_video(
    model: Colorizer,
    job: ColorizeTask,
    *,
    size: int | None,
    device: torch.device,
    batch_size: int,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> ColorizeResult:
    """Colorizes a video, each frame as `colorize` does a picture, and says what came of it.

    Frames keep their times; sound and subtitles are copied as they are. Raises Rejected for a file that is no video, is
    damaged, or holds what cannot be colorized, and when PyAV is not installed.
    """
    try:
        from .video_reader import VideoReader
        from .video_writer import VideoWriter
    except ModuleNotFoundError as error:
        if error.name != "av":
            raise
        raise Rejected("unreadable", INSTALL_AV) from None
    tally = _Tally()
    with (
        VideoReader(job.source) as reader,
        place_for(job.target),
        atomic_write(job.target) as file,
        VideoWriter(file, job.target.suffix, reader) as writer,
    ):
        read = ahead(_batches(reader.items(writer.copied), batch_size), _AHEAD)
        with closing(ahead(_coloured(model, read, size, device, tally), _AHEAD)) as batches:
            for batch in batches:
                for item in batch:
                    writer.write(item)
                progress(writer.num_frames, reader.num_frames)
        if not writer.num_frames:
            raise Rejected("not a video", "no frames in it")
    return ColorizeResult(
        source=job.source,
        target=job.target,
        is_video=True,
        pixels=tally.pixels,
        num_frames=writer.num_frames,
        clipped=tally.clipped / tally.pixels,
        notes=tuple(reader.notes),
    )


class _Tally:
    """How many pixels there were, and how many of them were clipped."""

    def __init__(self) -> None:
        self.pixels, self.clipped = 0, 0.0

    def add(self, colored: Colored) -> None:
        height, width, _ = colored.pixels.shape
        self.pixels += height * width
        self.clipped += colored.clipped * height * width


def _batches(items: Iterable["Item"], batch_size: int) -> Generator[list["Item"]]:
    """The items, so many at once that they hold `batch_size` frames, or fewer where frames are large."""
    from .video_reader import Frame

    batch: list[Item] = []
    pixels = frames = 0
    for item in items:
        batch.append(item)
        if isinstance(item, Frame):
            frames, pixels = frames + 1, pixels + item.pixels.shape[0] * item.pixels.shape[1]
        if frames == batch_size or pixels >= _BATCH_PIXELS or len(batch) - frames == _MOST_PACKETS:
            yield batch
            batch, pixels, frames = [], 0, 0
    yield batch


def _coloured(
    model: Colorizer, batches: Generator[list["Item"]], size: int | None, device: torch.device, tally: _Tally
) -> Generator[list["Item"]]:
    """The same with frames in the model's colours."""
    from .video_reader import Frame

    with closing(batches):
        for batch in batches:
            frames = [item for item in batch if isinstance(item, Frame)]
            results = iter(colorize(model, [frame.pixels for frame in frames], size=size, device=device))
            made: list[Item] = []
            for item in batch:
                if isinstance(item, Frame):
                    colored = next(results)
                    tally.add(colored)
                    made.append(replace(item, pixels=colored.pixels))
                else:
                    made.append(item)
            yield made
