"""Places the times of a video on one line: a first pass over its packets finds clocks that restart, and its end."""

from bisect import bisect
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from av.container import InputContainer
from av.packet import Packet

_STEP_BACK = 0.1  # seconds; smaller steps back are inaccuracies
_STEP_AHEAD = 3600.0  # seconds
_STEP_AHEAD_OF_CLOCKS = 60.0  # seconds, in formats whose clock can be reset; there, a wrap can look like this
_OVERLAP = 0.05  # seconds of sound of two segments; packets of sound do not end where frames do
_GAP = 0.1  # seconds
_CLOCKS = ("mpeg", "mpegts", "flv")
_NUM_SAMPLES = 8  # packets


@dataclass(kw_only=True)
class Timeline:
    """Times of a file, in seconds: `offsets` bring each segment's own times to their place, the first one's to 0.

    `frames` are the sorted times of the video's packets, `shown` is the video's start and end. `gaps` are the starts of
    spans without frames and sound. `end` is the end of the last track, without offsets. `samples` are the first packets
    of each stream.
    """

    offsets: list[float] = field(default_factory=list)
    frames: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    shown: tuple[float, float] = (0.0, 0.0)
    end: float = 0.0
    samples: dict[int, list["Packet[Any]"]] = field(default_factory=lambda: defaultdict(list))


class Segments:
    """Numbers the segments of a file whose clocks restart, as files joined of several have; from packets in order."""

    def __init__(self, container: InputContainer, video_index: int) -> None:
        self._clocks = {video_index, *(stream.index for stream in container.streams.audio)}
        self._step_ahead = _STEP_AHEAD_OF_CLOCKS if container.format.name in _CLOCKS else _STEP_AHEAD
        self._last: dict[int, tuple[int, float]] = {}  # of each stream: the segment and time of its last packet
        self._now: list[float] = []  # of each segment: the time of its last packet

    def number(self, packet: "Packet[Any]") -> int:
        """Returns the segment of the next packet. Tracks meet a restart at different packets."""
        newest = max(0, len(self._now) - 1)
        if packet.dts is None:  # pts do not increase
            return self._last.get(packet.stream_index, (newest, 0.0))[0]
        if packet.pts is not None and (packet.pts - packet.dts) * packet.time_base > self._step_ahead:
            packet.pts = packet.dts + (packet.duration or 0)  # FFmpeg's guess, from a packet behind a restart
        time = float(packet.dts * packet.time_base)
        self._now = self._now or [time]
        number, last = self._last.get(packet.stream_index, (newest, time))
        restarts = time < last - _STEP_BACK
        if number < newest and (restarts or abs(time - self._now[newest]) < abs(time - self._now[number])):
            number = newest
        elif packet.stream_index in self._clocks and (restarts or time > self._now[newest] + self._step_ahead):
            number = newest + 1
            self._now.append(time)
        self._now[number] = time
        self._last[packet.stream_index] = number, time
        return number


def demux(container: InputContainer) -> "Iterator[Packet[Any]]":
    """Yields all packets of the tracks that the file began with."""
    with suppress(IndexError):  # of PyAV, at the end of a file in which further tracks begin later
        yield from container.demux()


def scan(container: InputContainer, video_index: int, starts_at_zero: bool) -> Timeline:
    """Returns the timeline of a file, from all its packets. `starts_at_zero`: the first offset is 0."""
    timeline, segments = Timeline(), Segments(container, video_index)
    spans: list[dict[int, list[float]]] = []  # of each segment and stream: first time, last time, end
    frame = float(1 / (container.streams[video_index].average_rate or 25))
    sounds = {stream.index for stream in container.streams.audio}
    frames: list[tuple[int, float]] = []  # segment and time
    silences: list[tuple[int, float, float]] = []  # segment, from when, to when
    for packet in demux(container):
        number = segments.number(packet)
        spans.extend({} for _ in range(len(spans), number + 1))
        ticks, index = packet.dts if packet.pts is None else packet.pts, packet.stream_index
        if not packet.size or ticks is None or packet.is_discard:  # discarded: decoded, but not shown
            continue
        start = float(ticks * packet.time_base)
        end = start + float((packet.duration or 0) * packet.time_base or (frame if index == video_index else 0))
        span = spans[number].setdefault(index, [start, start, end])
        if index in sounds and start - span[2] > max(_GAP, 2 * frame):
            silences.append((number, span[2], start))
        span[:] = min(span[0], start), max(span[1], start), max(span[2], end)
        timeline.end = max(timeline.end, end)
        if index == video_index:
            frames.append((number, start))
        if len(timeline.samples[index]) < _NUM_SAMPLES:
            timeline.samples[index].append(packet)
    _place(timeline, spans, sounds | {video_index}, video_index, starts_at_zero)
    timeline.frames = sorted(timeline.offsets[number] + time for number, time in frames)
    for number, start, end in silences:
        offset = timeline.offsets[number]
        if bisect(timeline.frames, offset + start + frame) >= bisect(timeline.frames, offset + end - frame):
            timeline.gaps.append(offset + start)
    return timeline


def _place(
    timeline: Timeline, spans: list[dict[int, list[float]]], wanted: set[int], video_index: int, starts_at_zero: bool
) -> None:
    """Sets `offsets` and `shown`, so that each segment begins where the `wanted` streams of the ones before end."""
    placed: dict[int, float] = {}  # the time from which each stream can go on
    for streams in spans:
        kept = {index: span for index, span in streams.items() if index in wanted} or streams
        begins = [placed[index] - span[0] for index, span in kept.items() if index in placed]
        first = min((span[0] for span in kept.values()), default=0.0)
        offset = max(begins, default=max(placed.values(), default=first if starts_at_zero else 0.0) - first)
        timeline.offsets.append(offset)
        if video_index in kept:
            first, _, end = kept[video_index]
            timeline.shown = (timeline.shown[0] if timeline.shown[1] else offset + first, offset + end)
        for index, (_, last, end) in kept.items():  # frames keep their distances
            placed[index] = offset + (end if index == video_index else max(last + 0.001, end - _OVERLAP))
