"""Reads videos by PyAV: frames in sRGB with their times, and packets of streams that are copied."""

# Shapes: H W pixels.

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import av
import numpy as np
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ...pipelines.imaging.decode import Rejected
from .pixels import Pixels

# FFmpeg's numbers of colour ranges, and of YCbCr matrices with swscale's number of the same matrix.
LIMITED, FULL = 1, 2
_BT709, _SMPTE170M = 1, 6
MATRICES = {_BT709: 1, 4: 4, 5: 5, _SMPTE170M: 5, 7: 7, 9: 9}

# FFmpeg's formats that are one file; others can name further files or URLs to open.
_READABLE = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,asf,flv,mpeg,mpegts,mpegvideo,ogg,dv,mxf"
_SAFE = {"protocol_whitelist": "file", "format_whitelist": _READABLE}
_DURATION_IN_HEADER = ("mov", "matroska")  # that of other formats is a guess
_HDR = {16: "PQ", 18: "HLG"}  # FFmpeg's numbers of transfer functions
_HD = 720  # lines from which players assume BT.709 where no matrix is named


@dataclass(frozen=True, kw_only=True)
class Frame:
    """An upright frame, sRGB (H, W, 3) in 8 bit, shown from `pts` for `duration`, in the stream's time base."""

    pixels: Pixels
    pts: int
    duration: int


Item: TypeAlias = "Frame | Packet[Any]"  # a string: at run time, PyAV's Packet takes no parameter


class VideoReader:
    """A video file; `notes` list what is changed or dropped. Raises Rejected when it is not a video, or is damaged."""

    def __init__(self, path: Path) -> None:
        try:  # with file:, so that FFmpeg does not take the name for a URL
            self.container = av.open(f"file:{path}", "r", container_options=_SAFE, metadata_errors="replace")
        except av.FFmpegError as error:
            raise Rejected("not a video", str(error.strerror)) from None
        self.notes: list[str] = []
        try:
            self.video = self._choose_stream()
        except Rejected:
            self.container.close()
            raise
        context = self.video.codec_context
        guess = _BT709 if context.height >= _HD else _SMPTE170M
        self.matrix = context.colorspace if context.colorspace in MATRICES else guess
        self.time_base = self.video.time_base or 1 / self.rate
        # Timestamps of broadcasts and discs start anywhere.
        self._start = 0.0 if self._has_duration else (self.container.start_time or 0) / 1e6
        self._last_pts, self._end, self._quarter_turns = -(1 << 62), 0.0, 0

    def close(self) -> None:
        """Closes the file."""
        self.container.close()

    @property
    def rate(self) -> Fraction:
        """The average number of frames per second."""
        return self.video.average_rate or self.video.guessed_rate or Fraction(25)

    @property
    def pixel_aspect(self) -> Fraction | None:
        """The width of an upright frame's pixels over their height, if the file states it."""
        ratio = self.video.sample_aspect_ratio
        return 1 / ratio if ratio and self._quarter_turns % 2 else ratio

    @property
    def num_frames(self) -> int | None:
        """The number of frames, as far as the header states it."""
        if self.video.frames:
            return self.video.frames
        return round(self.container.duration / 1e6 * self.rate) if self.container.duration else None

    @property
    def streams_to_copy(self) -> list[Stream]:
        """The audio and subtitle streams."""
        return [stream for stream in self.container.streams if stream.type in ("audio", "subtitle")]

    def items(self, copied: list[Stream]) -> Iterator[Item]:
        """Yields all frames, and all packets of the `copied` streams, in the order of the file. Raises Rejected."""
        held: Frame | None = None  # its duration is known from the next frame
        try:
            for packet in self.container.demux([self.video, *copied]):
                self._update_end(packet)
                if packet.stream_index == self.video.index:
                    for frame in packet.decode():
                        assert isinstance(frame, VideoFrame)
                        following = self._frame(frame)
                        if held is not None:
                            yield replace(held, duration=following.pts - held.pts)
                        held = following
                elif packet.size:  # an empty packet marks the end of the stream
                    yield self._shift(packet)
        except av.FFmpegError as error:
            raise Rejected("damaged", str(error.strerror)) from None
        self._check_end()
        if held is not None:
            yield held

    def _choose_stream(self) -> VideoStream:
        """Returns the video stream to colorize; notes what is dropped."""
        streams = self.container.streams
        videos = [stream for stream in streams.video if not stream.disposition & Disposition.attached_pic]
        if not videos or videos[0].codec_context.format is None:
            raise Rejected("not a video", "it has no video stream")
        if transfer := _HDR.get(videos[0].codec_context.color_trc):
            raise Rejected("unsupported pixels", f"it is HDR ({transfer}): convert it to SDR")
        components = videos[0].codec_context.format.components
        losses = {
            "further video streams dropped": len(videos) > 1,
            "cover picture dropped": len(videos) < len(streams.video),
            "data streams dropped": any(stream.type in ("data", "unknown") for stream in streams),
            "attachments dropped": any(stream.type == "attachment" for stream in streams),
            "reduced to 8 bit": any(component.bits > 8 for component in components),
            "opacity dropped": any(component.is_alpha for component in components),
        }
        self.notes.extend(note for note, is_lost in losses.items() if is_lost)
        return videos[0]

    def _frame(self, frame: VideoFrame) -> Frame:
        if frame.is_corrupt:
            raise Rejected("damaged", f"a frame at {frame.time:.2f} s")
        context = self.video.codec_context
        if (frame.width, frame.height) != (context.width, context.height):
            raise Rejected("unsupported pixels", "its frames change size")
        pixels = self._rgb(frame)
        self._quarter_turns = round(frame.rotation / 90) % 4
        if self._quarter_turns:
            pixels = np.rot90(pixels, self._quarter_turns)
            self._note("turned upright")
        if frame.interlaced_frame:
            self._note("interlaced fields became whole frames")
        duration = frame.duration or max(1, round(1 / (self.rate * self.time_base)))
        pts = self._last_pts + duration if frame.pts is None else frame.pts - round(self._start / self.time_base)
        self._last_pts = max(pts, self._last_pts + 1)  # encoders need them to increase
        return Frame(pixels=pixels, pts=self._last_pts, duration=duration)

    def _rgb(self, frame: VideoFrame) -> Pixels:
        matrix: dict[str, Any] = {}
        if not frame.format.is_rgb:
            is_full_range = frame.color_range == FULL or frame.format.name.startswith("yuvj")
            colorspace = frame.colorspace if frame.colorspace in MATRICES else self.matrix
            matrix = {"src_colorspace": MATRICES[colorspace], "src_color_range": FULL if is_full_range else LIMITED}
        pixels = frame.to_ndarray(format="rgb24", dst_color_range=FULL, **matrix)
        assert pixels.dtype == np.uint8
        return pixels.astype(np.uint8, copy=False)

    @property
    def _has_duration(self) -> bool:
        return self.container.format.name.startswith(_DURATION_IN_HEADER)

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def _shift(self, packet: "Packet[Any]") -> "Packet[Any]":
        shift = round(self._start / packet.time_base)
        pts = packet.dts if packet.pts is None else packet.pts
        dts = pts if packet.dts is None else packet.dts
        if pts is not None and dts is not None:
            packet.pts, packet.dts = pts - shift, dts - shift
        return packet

    def _update_end(self, packet: "Packet[Any]") -> None:
        if packet.dts is not None and (self.video.duration is None or packet.stream_index == self.video.index):
            self._end = max(self._end, float((packet.dts + (packet.duration or 0)) * packet.time_base))

    def _check_end(self) -> None:
        """Raises Rejected for a file that ends before the duration in its header."""
        ticks = self.video.duration
        duration = (self.container.duration or 0) / 1e6 if ticks is None else float(ticks * self.time_base)
        if self._has_duration and self._end < duration - max(0.25, 0.01 * duration):
            raise Rejected("damaged", f"it ends after {self._end:.1f} of {duration:.1f} s")
