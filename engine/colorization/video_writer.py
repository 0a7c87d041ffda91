"""Writes videos through PyAV: frames are encoded, what is copied keeps its bytes."""

# Shapes: H W pixels.

import io
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from av.codec.context import Flags
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ...pipelines.imaging.decode import Rejected
from .pixels import Samples
from .video_reader import FULL, LIMITED, MATRICES, Frame, Item, VideoReader

_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
_H264 = ("libx264", {"crf": "18"})
_VP9 = ("libvpx-vp9", {"crf": "24", "b:v": "0", "row-mt": "1", "cpu-used": "4"})  # WebM takes no H.264
_OF_THE_OLD_FILE = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "software"}


class VideoWriter:
    """A video file in the container that `suffix` names, with all streams of the one that is read that it can take.

    `copied` are those whose packets it takes as they are. What is changed or left out, the reader's notes say.
    """

    def __init__(self, path: Path, suffix: str, reader: VideoReader) -> None:
        self.num_frames = 0
        self._reader, self._format = reader, _FORMATS[suffix.lower()]
        self._container = av.open(str(path), "w", format=self._format)
        self._container.metadata.update(_lasting(reader.container.metadata))
        self._video: VideoStream | None = None  # until the first frame tells its size
        self._copies: dict[int, Stream] = {}
        self._early: list[Packet[Any]] = []
        self.copied = [stream for stream in reader.streams_to_copy if self._takes(stream)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self._mux([] if self._video is None else self._video.encode_lazy())
            self._container.close()
        else:
            with suppress(av.FFmpegError, ValueError):  # of a file that is given up
                self._container.close()

    def write(self, item: Item) -> None:
        """Adds a frame, or a packet of a stream that is copied. Raises Rejected when the container cannot take it."""
        if isinstance(item, Frame):
            video = self._video or self._begin(item.pixels)
            self._mux(video.encode_lazy(self._encodable(item)))
            self.num_frames += 1
        elif self._video is None:
            self._early.append(item)
        else:
            item.stream = self._copies[item.stream_index]
            self._mux([item])

    def _takes(self, stream: Stream) -> bool:
        """Whether the container can hold a stream's codec, as a container in memory tells."""
        try:
            trial = av.open(io.BytesIO(), "w", format=self._format)
            trial.add_stream_from_template(stream)
            trial.start_encoding()
        except (ValueError, av.FFmpegError):
            self._reader.notes.append(f"{stream.type} in {stream.codec_context.name} dropped")
            return False
        return True

    def _begin(self, pixels: Samples) -> VideoStream:
        """Adds all streams, that of the frames first."""
        source, (height, width, _) = self._reader, pixels.shape
        codec, options = _VP9 if self._format == "webm" else _H264
        video = self._container.add_stream(codec, rate=source.rate, options=options)
        assert isinstance(video, VideoStream)
        context, before = video.codec_context, source.video.codec_context
        if self._format != "webm" and (height % 2 or width % 2):
            source.notes.append("a row or column of pixels added, as H.264 needs even sides")
            height, width = height + height % 2, width + width % 2
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base = source.time_base
        context.flags |= Flags.frame_duration  # the last frame's length is known from it alone
        context.colorspace, context.color_range = source.matrix, LIMITED
        context.color_primaries, context.color_trc = before.color_primaries, before.color_trc
        if (ratio := source.pixel_aspect) is not None:
            context.sample_aspect_ratio = ratio
        _describe(video, source.video)
        for stream in self.copied:
            self._copies[stream.index] = self._container.add_stream_from_template(stream)
            _describe(self._copies[stream.index], stream)
        if chapters := source.container.chapters():
            self._container.set_chapters(chapters)
        self._video = video
        for packet in self._early:
            self.write(packet)
        return video

    def _encodable(self, frame: Frame) -> VideoFrame:
        pixels = frame.pixels
        if self._format != "webm":
            pixels = np.pad(pixels, ((0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)), mode="edge")
        encodable = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(
            format="yuv420p",
            dst_colorspace=MATRICES[self._reader.matrix],
            src_color_range=FULL,
            dst_color_range=LIMITED,
        )
        encodable.pts, encodable.duration, encodable.time_base = frame.pts, frame.duration, self._reader.time_base
        return encodable

    def _mux(self, packets: "Iterable[Packet[Any]]") -> None:
        try:
            for packet in packets:
                self._container.mux(packet)
        except av.FFmpegError as error:
            if isinstance(error, OSError):  # a full disk, and the like
                raise
            raise Rejected(f"cannot be written as {self._format}", str(error.strerror)) from None


def _describe(stream: Stream, original: Stream) -> None:
    """Copies a stream's language, title and the like."""
    stream.metadata.update(_lasting(original.metadata))
    stream.disposition = original.disposition


def _lasting(metadata: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if key.lower() not in _OF_THE_OLD_FILE}
