"""Reads videos through PyAV: frames in sRGB with their times, and packets of what is only copied."""

# Shapes: H W pixels.

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ...pipelines.imaging.decode import Rejected
from .pixels import Samples

# FFmpeg's numbers of ranges, and of the matrices that make RGB of YCbCr, each with that which swscale has for it.
LIMITED, FULL = 1, 2
_BT709, _SMPTE170M = 1, 6
MATRICES = {_BT709: 1, 4: 4, 5: 5, _SMPTE170M: 5, 7: 7, 9: 9}

# Formats of FFmpeg's that are one file: others name further files, or addresses, to be opened.
_READABLE = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,asf,flv,mpeg,mpegts,mpegvideo,ogg,dv,mxf"
_SAFE = {"protocol_whitelist": "file", "format_whitelist": _READABLE}
_TELL_THEIR_LENGTH = ("mov", "matroska")  # in the header; that of other formats is a guess
_HDR = {16: "PQ", 18: "HLG"}  # FFmpeg's numbers of curves
_HD = 720  # lines from which on players take a matrix that is not named for BT.709


@dataclass(frozen=True, kw_only=True)
class Frame:
    """An upright frame, sRGB (H, W, 3) in 8 bit, shown from `pts` on for `duration`, in its stream's unit of time."""

    pixels: Samples
    pts: int
    duration: int


Item: TypeAlias = "Frame | Packet[Any]"  # at run time, PyAV's has no parameter


class VideoReader:
    """A video file; `notes` say what of it is changed or left out. Raises Rejected when it is none, or damaged."""

    def __init__(self, path: Path) -> None:
        try:  # named as a file, lest it be taken for an address
            self.container = _open(f"file:{path}")
        except av.FFmpegError as error:
            raise Rejected("not a video", str(error.strerror)) from None
        self.notes: list[str] = []
        try:
            self.video = self._chosen()
        except Rejected:
            self.container.close()
            raise
        context = self.video.codec_context
        guess = _BT709 if context.height >= _HD else _SMPTE170M
        self.matrix = context.colorspace if context.colorspace in MATRICES else guess
        self.time_base = self.video.time_base or 1 / self.rate
        # Broadcasts and discs count from anywhere.
        self._begins = 0.0 if self._tells_its_length else (self.container.start_time or 0) / 1e6
        self._last_pts, self._ends, self._quarter_turns = -(1 << 62), 0.0, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.container.close()

    @property
    def rate(self) -> Fraction:
        """Frames a second, on average."""
        return self.video.average_rate or self.video.guessed_rate or Fraction(25)

    @property
    def pixel_aspect(self) -> Fraction | None:
        """Width of an upright frame's pixels over their height, if it is told."""
        ratio = self.video.sample_aspect_ratio
        return 1 / ratio if ratio and self._quarter_turns % 2 else ratio

    @property
    def num_frames(self) -> int | None:
        """How many frames there are, as far as is known before they are read."""
        if self.video.frames:
            return self.video.frames
        return round(self.container.duration / 1e6 * self.rate) if self.container.duration else None

    @property
    def streams_to_copy(self) -> list[Stream]:
        """The streams of sound and of subtitles."""
        return [stream for stream in self.container.streams if stream.type in ("audio", "subtitle")]

    def items(self, copied: list[Stream]) -> Iterator[Item]:
        """All frames, and all packets of the streams that are `copied`, as they come. Raises Rejected."""
        held: Frame | None = None  # until the next one tells how long it is shown
        try:
            for packet in self.container.demux([self.video, *copied]):
                self._follow(packet)
                if packet.stream_index == self.video.index:
                    for frame in packet.decode():
                        assert isinstance(frame, VideoFrame)
                        following = self._frame(frame)
                        if held is not None:
                            yield replace(held, duration=following.pts - held.pts)
                        held = following
                elif packet.size:  # else it only says that the stream ends
                    yield self._shifted(packet)
        except av.FFmpegError as error:
            raise Rejected("damaged", str(error.strerror)) from None
        self._check_end()
        if held is not None:
            yield held

    def _chosen(self) -> VideoStream:
        """The stream that is colorized; what others there are is noted."""
        streams = self.container.streams
        moving = [it for it in streams.video if not it.disposition & Disposition.attached_pic]
        if not moving or moving[0].codec_context.format is None:
            raise Rejected("not a video", "no moving pictures in it")
        if curve := _HDR.get(moving[0].codec_context.color_trc):
            raise Rejected("unsupported pixels", f"its range is high ({curve}): convert it to the standard range")
        components = moving[0].codec_context.format.components
        losses = {
            "further video streams dropped": len(moving) > 1,
            "cover picture dropped": len(moving) < len(streams.video),
            "data streams dropped": any(it.type in ("data", "unknown") for it in streams),
            "attachments dropped": any(it.type == "attachment" for it in streams),
            "reduced to 8 bit": any(component.bits > 8 for component in components),
            "opacity dropped": any(component.is_alpha for component in components),
        }
        self.notes.extend(note for note, is_lost in losses.items() if is_lost)
        return moving[0]

    def _frame(self, frame: VideoFrame) -> Frame:
        if frame.is_corrupt:
            raise Rejected("damaged", f"a frame at {frame.time:.2f} s")
        context = self.video.codec_context
        if (frame.width, frame.height) != (context.width, context.height):
            raise Rejected("unsupported pixels", "its frames are not of one size")
        pixels = self._rgb(frame)
        self._quarter_turns = round(frame.rotation / 90) % 4
        if self._quarter_turns:
            pixels = np.rot90(pixels, self._quarter_turns)
            self._note("turned upright")
        if frame.interlaced_frame:
            self._note("interlaced fields became whole frames")
        duration = frame.duration or max(1, round(1 / (self.rate * self.time_base)))
        pts = self._last_pts + duration if frame.pts is None else frame.pts - round(self._begins / self.time_base)
        self._last_pts = max(pts, self._last_pts + 1)  # encoders want them to rise
        return Frame(pixels=pixels, pts=self._last_pts, duration=duration)

    def _rgb(self, frame: VideoFrame) -> Samples:
        matrix: dict[str, Any] = {}
        if not frame.format.is_rgb:
            is_full = frame.color_range == FULL or frame.format.name.startswith("yuvj")
            named = frame.colorspace if frame.colorspace in MATRICES else self.matrix
            matrix = {"src_colorspace": MATRICES[named], "src_color_range": FULL if is_full else LIMITED}
        pixels = frame.to_ndarray(format="rgb24", dst_color_range=FULL, **matrix)
        assert pixels.dtype == np.uint8
        return pixels.astype(np.uint8, copy=False)

    @property
    def _tells_its_length(self) -> bool:
        return self.container.format.name.startswith(_TELL_THEIR_LENGTH)

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def _shifted(self, packet: "Packet[Any]") -> "Packet[Any]":
        shift = round(self._begins / packet.time_base)
        pts = packet.dts if packet.pts is None else packet.pts
        dts = pts if packet.dts is None else packet.dts
        if pts is not None and dts is not None:
            packet.pts, packet.dts = pts - shift, dts - shift
        return packet

    def _follow(self, packet: "Packet[Any]") -> None:
        if packet.dts is not None and (self.video.duration is None or packet.stream_index == self.video.index):
            self._ends = max(self._ends, float((packet.dts + (packet.duration or 0)) * packet.time_base))

    def _check_end(self) -> None:
        """A file that was cut off ends like a whole one, but its header tells."""
        own = self.video.duration
        told = (self.container.duration or 0) / 1e6 if own is None else float(own * self.time_base)
        if self._tells_its_length and self._ends < told - max(0.25, 0.01 * told):
            raise Rejected("damaged", f"it ends after {self._ends:.1f} of {told:.1f} s")


def _open(name: str) -> InputContainer:
    return av.open(name, "r", container_options=_SAFE, metadata_errors="replace")
