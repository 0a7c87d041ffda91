"""Copies and encodes the sound and subtitles of videos: finds by trial which of their codecs a container can hold."""

import io
from collections.abc import Iterator
from fractions import Fraction
from math import inf
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.codec.context import Flags
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream


class _Memory(io.BytesIO):
    def close(self) -> None:
        """Keeps the content, which is read after the muxer has closed the file."""


def open_output(file: Path | io.BytesIO, format_name: str, *, skip_codec_check: bool = False) -> OutputContainer:
    """Opens a container for writing; with `skip_codec_check`, also for codecs that PyAV would refuse.

    PyAV calls `avformat_query_codec`, which denies codecs that Matroska holds as A_MS/ACM, such as WMA. For FFmpeg's
    tee muxer it denies nothing; that passes everything to the real muxer, except chapters.
    """
    if skip_codec_check:

        def opener(url: str, flags: int, options: dict[str, str]) -> Any:
            return file if isinstance(file, io.BytesIO) else file.open("wb")

        return av.open(f"[f={format_name}:fflags=+bitexact]output", "w", format="tee", io_open=opener)
    # file:, so that FFmpeg does not take the name for a URL; bitexact, since a random identifier changes the bytes.
    output = file if isinstance(file, io.BytesIO) else f"file:{file}"
    return av.open(output, "w", format=format_name, container_options={"fflags": "+bitexact"})


def can_hold(stream: Stream, packets: "list[Packet[Any]]", format_name: str, *, skip_codec_check: bool) -> bool:
    """Returns whether a container can hold a stream, by writing its first packets in memory and reading them."""
    memory = _Memory()
    try:
        trial = open_output(memory, format_name, skip_codec_check=skip_codec_check)
        copy = trial.add_stream_from_template(stream)
        trial.start_encoding()
        for packet in packets:
            packet.stream = copy
            trial.mux(packet)
        trial.close()
        with av.open(io.BytesIO(memory.getvalue())) as written:
            names = [copied.codec_context.name for copied in written.streams if copied.codec_context]
            return names == [stream.codec_context.name]
    except (ValueError, av.FFmpegError):
        return False


class SoundEncoder:
    """Encodes sound as AAC, or as Opus in WebM. Raises ValueError or FFmpegError if it cannot."""

    def __init__(self, container: OutputContainer, source: AudioStream, codec: str) -> None:
        self._source = source
        rates = av.Codec(codec, "w").audio_rates
        rate = source.rate if not rates or source.rate in rates else 48_000
        stream = container.add_stream(codec, rate=rate)
        assert isinstance(stream, AudioStream)
        self.stream = stream
        channels = source.layout.nb_channels
        self.stream.layout = source.layout if channels > 2 else ("mono" if channels == 1 else "stereo")
        self.stream.codec_context.flags |= Flags.global_header
        self.stream.codec_context.open()
        self._end = -inf
        self.num_damaged = 0

    def encode(self, packet: "Packet[Any] | None") -> "Iterator[Packet[Any]]":
        """Yields the encoded packets; with None, those left in the encoder. Counts packets that cannot be decoded."""
        try:
            for decoded in self._source.decode(packet):
                assert isinstance(decoded, AudioFrame)
                if frame := self._cut_overlap(decoded):
                    yield from self.stream.encode(frame)
        except (av.FFmpegError, ValueError):  # ValueError: its rate or layout changes
            self.num_damaged += 1
        if packet is None:
            yield from self.stream.encode(None)

    def _cut_overlap(self, frame: AudioFrame) -> AudioFrame | None:
        """Returns the part of a frame after the end of the frame before; an encoder needs times that increase."""
        start = max(0.0, self._end) if frame.time is None else frame.time
        overlap = round(max(0.0, self._end - start) * frame.sample_rate)
        if overlap >= frame.samples:
            return None
        values: Any = frame.to_ndarray()[:, overlap * (1 if frame.format.is_planar else frame.layout.nb_channels) :]
        if values.dtype.kind == "f":  # damaged sound can be loud enough to make the AAC encoder hang
            values = np.clip(np.nan_to_num(values), -1, 1)
        cut = AudioFrame.from_ndarray(np.ascontiguousarray(values), frame.format.name, frame.layout.name)
        cut.sample_rate, cut.time_base = frame.sample_rate, Fraction(1, frame.sample_rate)
        cut.pts = round(max(start, self._end) * frame.sample_rate)
        self._end = cut.pts / frame.sample_rate + cut.samples / frame.sample_rate
        return cut
