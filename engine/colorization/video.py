"""Colorizes videos: decoding, the model and encoding overlap; audio and subtitles are kept."""

# Shapes: H W pixels.

from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import replace

import torch

from ...models import Colorizer
from ...pipelines.files import atomic_write
from ...pipelines.imaging.decode import Rejected
from .batch import ColorizeResult, Progress, target_folder
from .colorize import colorize
from .inputs import ColorizeTask
from .prefetch import prefetch
from .video_reader import Frame, Item, VideoReader
from .video_writer import VideoWriter

_PREFETCH_BATCHES = 3  # between decoding and model, and between model and encoding
_BATCH_PIXELS = 40_000_000  # of the frames of a batch: 4 of 4K
_BATCH_PACKETS = 256


def colorize_video(
    model: Colorizer,
    task: ColorizeTask,
    *,
    size: int | None,
    device: torch.device,
    batch_size: int,
    progress: Progress = lambda done, total: None,
) -> ColorizeResult:
    """Colorizes each frame of a video as `colorize` does an image; frames keep their times.

    Raises Rejected when the file is not a video, is damaged or has unsupported pixels.
    """
    clipped: list[float] = []  # of each frame
    with (
        closing(VideoReader(task.source)) as reader,
        target_folder(task.target),
        atomic_write(task.target) as file,
        VideoWriter(file, task.target.suffix, reader) as writer,
    ):
        decoded = prefetch(_batches(reader.items(writer.kept), batch_size), _PREFETCH_BATCHES)
        colorized = _colorize_batches(model, decoded, size, device, clipped)
        with closing(prefetch(colorized, _PREFETCH_BATCHES)) as batches:
            for batch in batches:
                for item in batch:
                    writer.write(item)
                progress(writer.num_frames, max(writer.num_frames, len(reader.timeline.frames)))
        if not writer.num_frames:
            raise Rejected("not a video", "no frames in it")
        frame_pixels = reader.video.width * reader.video.height  # of every frame
    return ColorizeResult(
        task=task,
        pixels=writer.num_frames * frame_pixels,
        num_frames=writer.num_frames,
        clipped=sum(clipped) / len(clipped),
        notes=tuple(reader.notes),
    )


def _batches(items: Iterable[Item], batch_size: int) -> Generator[list[Item]]:
    """Groups items so that a batch has `batch_size` frames, or fewer where frames are large or packets many."""
    batch: list[Item] = []
    num_pixels = num_frames = 0
    for item in items:
        batch.append(item)
        if isinstance(item, Frame):
            num_frames, num_pixels = num_frames + 1, num_pixels + item.pixels.shape[0] * item.pixels.shape[1]
        if num_frames == batch_size or num_pixels >= _BATCH_PIXELS or len(batch) - num_frames == _BATCH_PACKETS:
            yield batch
            batch, num_pixels, num_frames = [], 0, 0
    yield batch


def _colorize_batches(
    model: Colorizer, batches: Generator[list[Item]], size: int | None, device: torch.device, clipped: list[float]
) -> Generator[list[Item]]:
    """Yields the batches with their frames colorized; adds the share of pixels with reduced chroma to `clipped`."""
    with closing(batches):
        for batch in batches:
            frames = {index: item for index, item in enumerate(batch) if isinstance(item, Frame)}
            images = colorize(model, [frame.pixels for frame in frames.values()], size=size, device=device)
            for (index, frame), image in zip(frames.items(), images, strict=True):
                clipped.append(image.clipped)
                batch[index] = replace(frame, pixels=image.pixels)
            yield batch
