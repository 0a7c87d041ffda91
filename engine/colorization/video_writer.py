"""Writes videos by PyAV: encodes frames, copies packets of other streams or encodes their sound."""

# Shapes: H W pixels.

import io
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
import torch
from av.audio.stream import AudioStream
from av.codec.context import Flags
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ...pipelines.imaging.decode import Rejected
from .pixels import Pixels
from .video_reader import FULL, LIMITED, MATRICES, Frame, Item, VideoReader
from .video_streams import SoundEncoder, can_hold, open_output

_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
# x264's AVX-512 code reads memory that was never written if a row of macroblocks is not a multiple of 8, so that the
# same frames become other bytes; its AVX2 code needs 1 % more time. A processor that has AVX-512 has all that is named.
_X264_UP_TO_AVX2 = {"x264-params": "asm=MMX2,SSE2,SSE2Fast,LZCNT,SSE3,SSSE3,SSE4.1,SSE4.2,AVX,FMA3,BMI1,BMI2,AVX2"}
_HAS_AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
_H264 = ("libx264", {"crf": "18"} | (_X264_UP_TO_AVX2 if _HAS_AVX512 else {}))
_VP9 = ("libvpx-vp9", {"crf": "24", "b:v": "0", "row-mt": "1", "cpu-used": "4"})  # for WebM, which cannot hold H.264
_SOUNDS = {"aac": "AAC", "libopus": "Opus"}  # names of encoders, and of what they make
_DROPPED_KEYS = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "software"}


class VideoWriter:
    """A video file in the container that `suffix` names, with the reader's video and all streams that it can hold.

    `kept` are the streams that are copied or encoded. What is changed or dropped is added to the reader's notes.
    """

    def __init__(self, path: Path, suffix: str, reader: VideoReader) -> None:
        self.num_frames = self._num_damaged = 0
        self._reader, self._format = reader, _FORMATS[suffix.lower()]
        self._sound_codec = "libopus" if self._format == "webm" else "aac"
        self._video: VideoStream | None = None  # until the first frame, whose size it needs
        self._copies: dict[int, Stream] = {}
        self._encoders: dict[int, SoundEncoder] = {}
        self._pending: list[Packet[Any]] = []
        streams = reader.streams_to_copy
        checked = [stream for stream in streams if self._can_hold(stream)]
        self._copied = [
            stream for stream in streams if stream in checked or self._can_hold(stream, skip_codec_check=True)
        ]
        skip_codec_check = len(self._copied) > len(checked)
        self._container = open_output(path, self._format, skip_codec_check=skip_codec_check)
        self._container.metadata.update(_keep_metadata(reader.container.metadata))
        if skip_codec_check and reader.container.chapters():
            reader.notes.append("chapters dropped")
        self.kept = [stream for stream in streams if stream in self._copied or self._can_encode(stream)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is None:
            for encoder in self._encoders.values():
                self._mux(encoder.encode(None))
                self._num_damaged += encoder.num_damaged
            if self._num_damaged:
                self._reader.notes.append(f"damaged packets of sound left silent: {self._num_damaged}")
            self._mux([] if self._video is None else self._video.encode_lazy())
            self._container.close()
        else:
            with suppress(av.FFmpegError, ValueError):  # the file is incomplete
                self._container.close()

    def write(self, item: Item) -> None:
        """Adds a frame, or a packet of a copied stream. Raises Rejected when the container cannot hold it."""
        if isinstance(item, Frame):
            video = self._video or self._add_streams(item.pixels)
            self._mux(video.encode_lazy(self._to_video_frame(item)))
            self.num_frames += 1
        elif self._video is None:
            self._pending.append(item)
        elif item.stream_index in self._encoders:
            self._mux(self._encoders[item.stream_index].encode(item))
        else:
            item.stream = self._copies[item.stream_index]
            self._mux([item], is_copied=True)

    def _can_hold(self, stream: Stream, *, skip_codec_check: bool = False) -> bool:
        samples = self._reader.timeline.samples.get(stream.index, [])
        return can_hold(stream, samples, self._format, skip_codec_check=skip_codec_check)

    def _can_encode(self, stream: Stream) -> bool:
        """Returns whether a stream that cannot be copied can be encoded, by trial; notes what happens to it."""
        name = stream.codec_context.name if stream.codec_context else "an unknown codec"
        try:
            if not isinstance(stream, AudioStream):
                raise ValueError("not a sound")
            SoundEncoder(open_output(io.BytesIO(), self._format), stream, self._sound_codec)
        except (ValueError, av.FFmpegError):
            self._reader.notes.append(f"{stream.type} in {name} dropped")
            return False
        self._reader.notes.append(f"{stream.type} in {name} encoded as {_SOUNDS[self._sound_codec]}")
        return True

    def _add_streams(self, pixels: Pixels) -> VideoStream:
        """Adds all streams, the video first; returns the video."""
        source, (height, width, _) = self._reader, pixels.shape
        codec, options = _VP9 if self._format == "webm" else _H264
        video = self._container.add_stream(codec, rate=source.rate, options=options)
        assert isinstance(video, VideoStream)
        context, original = video.codec_context, source.video.codec_context
        if self._format != "webm" and (height % 2 or width % 2):
            source.notes.append("a row or column of pixels added, as H.264 needs even sides")
            height, width = height + height % 2, width + width % 2
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base = source.time_base
        context.flags |= Flags.frame_duration | Flags.global_header  # the former: else the last frame has no duration
        context.colorspace, context.color_range = source.matrix, LIMITED
        context.color_primaries, context.color_trc = original.color_primaries, original.color_trc
        if (ratio := source.pixel_aspect) is not None:
            context.sample_aspect_ratio = ratio
        _copy_description(video, source.video)
        for stream in self.kept:
            if stream in self._copied:
                self._copies[stream.index] = new = self._container.add_stream_from_template(stream)
            else:
                assert isinstance(stream, AudioStream)
                self._encoders[stream.index] = SoundEncoder(self._container, stream, self._sound_codec)
                new = self._encoders[stream.index].stream
            _copy_description(new, stream)
        if chapters := source.container.chapters():
            self._container.set_chapters(chapters)
        self._video = video
        for packet in self._pending:
            self.write(packet)
        return video

    def _to_video_frame(self, frame: Frame) -> VideoFrame:
        pixels = frame.pixels
        if self._format != "webm":
            pixels = np.pad(pixels, ((0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)), mode="edge")
        video_frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(
            format="yuv420p",
            dst_colorspace=MATRICES[self._reader.matrix],
            src_color_range=FULL,
            dst_color_range=LIMITED,
        )
        video_frame.pts, video_frame.duration, video_frame.time_base = frame.pts, frame.duration, self._reader.time_base
        return video_frame

    def _mux(self, packets: "Iterable[Packet[Any]]", *, is_copied: bool = False) -> None:
        try:
            for packet in packets:
                self._container.mux(packet)
        except av.FFmpegError as error:
            if isinstance(error, OSError):  # such as a full disk
                raise
            if is_copied and isinstance(error, av.InvalidDataError):
                self._num_damaged += 1
                return
            raise Rejected(f"cannot be written as {self._format}", str(error.strerror)) from None


def _copy_description(stream: Stream, original: Stream) -> None:
    """Copies a stream's metadata, such as language and title, and its disposition."""
    stream.metadata.update(_keep_metadata(original.metadata))
    stream.disposition = original.disposition


def _keep_metadata(metadata: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if key.lower() not in _DROPPED_KEYS}
