"""Reads videos by PyAV: frames in sRGB with their times, and packets of streams that are copied."""

# Shapes: H W pixels.

from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from math import inf
from pathlib import Path
from typing import Any, TypeAlias

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ...pipelines.imaging.decode import Rejected
from .pixels import Pixels
from .video_times import Segments, demux, scan

# FFmpeg's numbers of colour ranges, and of YCbCr matrices with swscale's number of the same matrix.
LIMITED, FULL = 1, 2
_BT709, _SMPTE170M = 1, 6
MATRICES = {_BT709: 1, 4: 4, 5: 5, _SMPTE170M: 5, 7: 7, 9: 9}

# FFmpeg's formats that are one file; others can name further files or URLs to open.
_READABLE = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,asf,flv,mpeg,mpegts,mpegvideo,ogg,dv,mxf"
_SAFE = {"protocol_whitelist": "file", "format_whitelist": _READABLE}
_DURATION_IN_HEADER = ("mov", "matroska")  # that of other formats is a guess
_WITHOUT_PTS = ("avi",)  # FFmpeg guesses them, wrongly where frames are reordered
_MAX_DAMAGED = 0.1  # of the frames; more are refused
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
        self.container = _open(path)
        self.notes: list[str] = []
        try:
            self.video = self._choose_stream()
            with _open(path) as twin:
                self.timeline = scan(twin, self.video.index, self._has_duration)
            self._check_end()
        except (Rejected, av.FFmpegError) as error:
            self.container.close()
            raise error if isinstance(error, Rejected) else Rejected("damaged", str(error.strerror)) from None
        context = self.video.codec_context
        guess = _BT709 if context.height >= _HD else _SMPTE170M
        self.matrix = context.colorspace if context.colorspace in MATRICES else guess
        self.time_base = self.video.time_base or 1 / self.rate
        self._last_pts, self._last_dts, self._is_turned, self._shape = -(1 << 62), dict[int, int](), False, (0, 0, 0)
        self._num_damaged, self._first_damaged, self._num_errors = 0, 0.0, 0
        self._last_time: float | None = None  # of the last frame, in seconds
        if gaps := self.timeline.gaps:
            self.notes.append(f"gaps in picture and sound: {len(gaps)}, the first at {max(0.0, gaps[0]):.2f} s")

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
        return 1 / ratio if ratio and self._is_turned else ratio

    @property
    def streams_to_copy(self) -> list[Stream]:
        """The audio and subtitle streams."""
        return [stream for stream in self.container.streams if stream.type in ("audio", "subtitle")]

    def items(self, wanted: list[Stream]) -> Iterator[Item]:
        """Yields all frames, and all packets of the `wanted` streams, in the order of the file. Raises Rejected."""
        held: Frame | None = None  # its duration is known from the next frame
        segments, wanted_indices = Segments(self.container, self.video.index), {stream.index for stream in wanted}
        try:
            for packet in demux(self.container):
                offset = self.timeline.offsets[segments.number(packet)]
                if packet.stream is self.video:  # the empty packet at the end has no stream_index
                    self._shift(packet, offset)
                    for frame in self._decode(packet):
                        if following := self._frame(frame, held):
                            if held is not None:
                                yield replace(held, duration=following.pts - held.pts)
                            held = following
                elif packet.size and packet.stream_index in wanted_indices:
                    self._shift(packet, offset)
                    yield self._in_order(packet)
        except av.FFmpegError as error:
            raise Rejected("damaged", str(error.strerror)) from None
        self._count_lost(inf)
        if held is not None:
            yield held
        if len(self.timeline.offsets) > 1:
            self._note("times that restart in it became continuous")
        if self._num_damaged:
            self._note(f"damaged frames bridged: {self._num_damaged}, the first at {self._first_damaged:.2f} s")

    def _choose_stream(self) -> VideoStream:
        """Returns the video stream to colorize; notes what is dropped."""
        streams = self.container.streams
        videos = [stream for stream in streams.video if not stream.disposition & Disposition.attached_pic]
        # A codec that FFmpeg cannot decode has no context, whatever PyAV's types say.
        pixel_format = getattr(videos[0].codec_context, "format", None) if videos else None
        if pixel_format is None:
            raise Rejected("not a video", "it has no video stream")
        if transfer := _HDR.get(videos[0].codec_context.color_trc):
            raise Rejected("unsupported pixels", f"it is HDR ({transfer}): convert it to SDR")
        components = pixel_format.components
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

    def _decode(self, packet: "Packet[Any]") -> list[VideoFrame]:
        try:
            return [frame for frame in packet.decode() if isinstance(frame, VideoFrame)]
        except av.FFmpegError:
            self._num_errors += 1
            self._count_damaged(0, self._last_time or 0.0)
            return []

    def _frame(self, frame: VideoFrame, previous: Frame | None) -> Frame | None:
        """Returns a decoded frame upright; for a damaged one the `previous` frame's pixels, if there are any."""
        duration = frame.duration or max(1, round(1 / (self.rate * self.time_base)))
        pts = self._last_pts + duration if frame.pts is None else frame.pts
        pts = max(pts, self._last_pts + 1)  # encoders need them to increase
        time = float(pts * self.time_base)
        if not frame.interlaced_frame or self._num_errors:  # fields can have packets of their own
            self._count_lost(time)
        self._count_damaged(frame.is_corrupt, time)
        self._last_pts, self._last_time = pts, time
        if frame.is_corrupt:
            if previous is None:
                return None
            pixels = previous.pixels
        else:
            pixels = self._upright(frame, self._rgb(frame))
        if pixels.shape != (self._shape if any(self._shape) else pixels.shape):
            raise Rejected("unsupported pixels", "its frames change size")
        self._shape = pixels.shape
        if frame.interlaced_frame:
            self._note("interlaced fields became whole frames")
        return Frame(pixels=pixels, pts=pts, duration=duration)

    def _upright(self, frame: VideoFrame, pixels: Pixels) -> Pixels:
        """Returns pixels turned and mirrored as the display matrix says: x' = a x + c y, y' = b x + d y."""
        data: Any = frame.side_data.get("DISPLAYMATRIX")
        a, b, _, c, d = (0, 0, 0, 0, 0) if data is None else np.frombuffer(data, np.int32)[:5].tolist()
        self._is_turned = abs(b) > abs(a)
        if self._is_turned:
            pixels, a, b, c, d = pixels.transpose(1, 0, 2), c, d, a, b
        if max(abs(b), abs(c)) > 0.01 * max(abs(a), abs(d)):
            self._note("turned to the nearest quarter")
        if a < 0 or d < 0 or self._is_turned:
            self._note("turned upright")
        return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]

    def _count_lost(self, until: float) -> None:
        """Counts packets that have become no frame since the last frame; before the first one, only after an error."""
        if self._last_time is not None or self._num_errors:
            margin, times = float(0.5 / self.rate), self.timeline.frames
            first = bisect(times, -inf if self._last_time is None else self._last_time + margin)
            num_missing = 0 if self.container.format.name in _WITHOUT_PTS else bisect(times, until - margin) - first
            num_lost = max(self._num_errors, num_missing)
            self._num_errors = 0
            self._count_damaged(num_lost, times[min(first, len(times) - 1)] if times else 0.0)

    def _count_damaged(self, number: int, time: float) -> None:
        if not self._num_damaged:
            self._first_damaged = max(0.0, time)
        self._num_damaged += number
        if self._num_damaged + self._num_errors > _MAX_DAMAGED * len(self.timeline.frames):
            raise Rejected("damaged", f"more than {_MAX_DAMAGED:.0%} of its frames, from {self._first_damaged:.2f} s")

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

    def _shift(self, packet: "Packet[Any]", offset: float) -> None:
        ticks = round(offset / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts + ticks
        packet.dts = None if packet.dts is None else packet.dts + ticks

    def _in_order(self, packet: "Packet[Any]") -> "Packet[Any]":
        """Returns a packet with times that do not step back, which containers refuse."""
        pts = packet.dts if packet.pts is None else packet.pts
        dts = pts if packet.dts is None else packet.dts
        if pts is not None and dts is not None:
            packet.dts = self._last_dts[packet.stream_index] = max(dts, self._last_dts.get(packet.stream_index, dts))
            packet.pts = max(pts, packet.dts)
        return packet

    def _check_end(self) -> None:
        """Raises Rejected for a file that ends before the duration in its header."""
        ticks, end, shown = self.video.duration, self.timeline.end, self.timeline.shown
        duration = (self.container.duration or 0) / 1e6
        if ticks is not None and self.video.time_base:
            duration, end = float(ticks * self.video.time_base), shown[1] - shown[0]
        if self._has_duration and end < duration - max(0.25, 0.01 * duration):
            raise Rejected("damaged", f"it ends after {end:.1f} of {duration:.1f} s")


def _open(path: Path) -> InputContainer:
    try:  # with file:, so that FFmpeg does not take the name for a URL
        return av.open(f"file:{path}", "r", container_options=_SAFE, metadata_errors="replace")
    except av.FFmpegError as error:
        raise Rejected("not a video", str(error.strerror)) from None
