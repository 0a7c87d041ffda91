"""Films as people have them: joined files, every sound, mirrored, slow, damaged; made, colorized and read by FFmpeg."""

import ctypes
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.filter import Graph
from photochrom.engine.colorization.inputs import make_plan
from photochrom.engine.colorization.video import colorize_video
from photochrom.models import Colorizer, ColorPrediction
from photochrom.pipelines.imaging.decode import Rejected

RESTARTS = "times that restart in it became continuous"
COPIED = [
    ("a.wmv", "wmv2", "wmav1", 44_100),
    ("a.wmv", "wmv2", "wmav2", 44_100),
    ("a.avi", "mpeg4", "adpcm_ms", 8_000),
    ("a.avi", "mpeg4", "adpcm_ima_wav", 8_000),
    ("a.avi", "mpeg4", "pcm_alaw", 8_000),
    ("a.avi", "mpeg4", "pcm_mulaw", 8_000),
    ("a.avi", "mpeg4", "libmp3lame", 22_050),
    ("a.3gp", "mpeg4", "libopencore_amrnb", 8_000),
    ("a.mov", "mpeg4", "pcm_alaw", 8_000),
    ("a.mov", "mpeg4", "adpcm_ima_qt", 8_000),
    ("a.vob", "mpeg2video", "ac3", 48_000),
]
ENCODED = [
    ("a.flv", "flv", "nellymoser", 8_000, "aac"),
    ("a.vob", "mpeg2video", "pcm_dvd", 48_000, "aac"),
    ("a.m2ts", "libx264", "pcm_bluray", 48_000, "aac"),
    ("a.webm", "libx264", "aac", 44_100, "opus"),
]


class Grey(Colorizer):
    """Predicts no colour."""

    def forward(self, L: torch.Tensor) -> ColorPrediction:
        return ColorPrediction(output=torch.zeros(len(L), 2, 8, 8), input_size=(L.shape[2], L.shape[3]))


@dataclass
class Film:
    """The frames, grey, their times, and the packets of the sound with theirs."""

    frames: list[np.ndarray] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    sound: list[bytes] = field(default_factory=list)
    sound_times: list[float] = field(default_factory=list)
    codecs: list[str] = field(default_factory=list)


def make(
    path: Path,
    codec: str = "libx264",
    *,
    number: int = 25,
    rate: int = 25,
    size: tuple[int, int] = (32, 32),
    pixels: str = "yuv420p",
    sound: str | None = None,
    sound_rate: int = 48_000,
    seconds: float | None = None,
    start: int = 0,
    options: dict[str, str] | None = None,
    sound_first: bool = False,
    second_video: int = 0,
    container_format: str | None = None,
) -> Path:
    """Makes a film whose frames all differ, with a tone of `seconds`, interleaved as recorders do."""
    with av.open(str(path), "w", format=container_format) as container:
        streams: dict[str, Any] = {}
        for kind in ("sound", "video") if sound_first else ("video", "sound"):
            if kind == "sound" and sound:
                streams[kind] = container.add_stream(sound, rate=sound_rate, layout="mono")
                streams[kind].bit_rate = {"wmav1": 64_000, "wmav2": 64_000, "libopencore_amrnb": 12_200}.get(sound, 0)
            elif kind == "video":
                for _ in range(1 + bool(second_video)):
                    stream = container.add_stream(codec, rate=rate, options=options or {})
                    (stream.width, stream.height), stream.pix_fmt = size, pixels
                    streams["video2" if "video" in streams else "video"] = stream
        noise = np.random.default_rng(0).integers(40, 200, (size[1], size[0], 1), np.uint8)
        num_samples, done = int((number / rate if seconds is None else seconds) * sound_rate), 0
        for place in range(max(number, second_video, math.ceil((seconds or 0) * rate))):
            picture = np.ascontiguousarray(np.repeat(np.roll(noise, place, axis=1), 3, axis=2))
            for name, length in (("video", number), ("video2", second_video)):
                if place < length:
                    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)
                    frame.pts, frame.time_base = place + start * rate, Fraction(1, rate)
                    container.mux(streams[name].encode(frame))
            while sound and done < min(num_samples, (place + 1) * sound_rate // rate):
                wave = (8000 * np.sin(np.arange(done, done + 512) * 0.05)).astype(np.int16)[None]
                samples = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
                samples.sample_rate, samples.time_base = sound_rate, Fraction(1, sound_rate)
                samples.pts = done + start * sound_rate
                container.mux(streams["sound"].encode(samples))
                done += 512
        for stream in streams.values():
            container.mux(stream.encode(None))
    return path


def read(path: Path) -> Film:
    film = Film()
    with av.open(str(path)) as container:
        film.codecs = [stream.codec_context.name for stream in container.streams]
        for packet in container.demux():
            if packet.stream == container.streams.video[0]:
                for frame in packet.decode():
                    assert isinstance(frame, av.VideoFrame)
                    film.frames.append(frame.to_ndarray(format="gray"))
                    film.times.append(float(frame.time or 0))
            elif packet.stream.type == "audio" and packet.size:
                film.sound.append(bytes(packet))
                film.sound_times.append(float((packet.pts or 0) * packet.time_base))
    return film


def colorized(source: Path) -> tuple[Film, tuple[str, ...]]:
    """Colorizes a film; returns the result and its notes."""
    (task,) = make_plan([str(source)], source.parent / "out", overwrite=True).tasks
    result = colorize_video(Grey(), task, size=32, device=torch.device("cpu"), batch_size=8)
    return read(task.target), result.notes


def join(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


@pytest.mark.parametrize("starts", [(0, 0, 0), (0, 5000), (5000, 0)])
@pytest.mark.parametrize(
    ("end", "codec", "sound"),
    [("vob", "mpeg2video", "mp2"), ("ts", "libx264", "aac"), ("mpg", "mpeg1video", None), ("m2ts", "libx264", "ac3")],
)
def test_frames_of_joined_files_keep_their_distances_and_sound_its_place(
    tmp_path: Path, starts: tuple[int, ...], end: str, codec: str, sound: str | None
) -> None:
    made = [make(tmp_path / f"{start}.{end}", codec, sound=sound, start=start) for start in starts]
    single, _ = colorized(made[0])
    film, notes = colorized(join(tmp_path / f"joined.{end}", *made))
    assert notes == (RESTARTS,)
    assert len(film.times) == 25 * len(starts)
    assert np.diff(film.times) == pytest.approx(0.04, abs=0.006)
    assert len(film.sound) == len(single.sound) * len(starts)
    for place in range(len(starts)):
        frames = film.times[25 * place : 25 * (place + 1)]
        assert np.subtract(frames, frames[0]) == pytest.approx(np.subtract(single.times, single.times[0]), abs=0.002)
        times = film.sound_times[len(single.sound) * place : len(single.sound) * (place + 1)]
        assert np.subtract(times, frames[0]) == pytest.approx(
            np.subtract(single.sound_times, single.times[0]), abs=0.003
        )


def test_a_part_begins_after_the_sound_of_the_one_before(tmp_path: Path) -> None:
    long = make(tmp_path / "long.vob", "mpeg2video", sound="mp2", seconds=2)
    film, _ = colorized(join(tmp_path / "a.vob", long, make(tmp_path / "b.vob", "mpeg2video", sound="mp2")))
    assert film.times[25] == pytest.approx(2, abs=0.05)
    assert np.diff(film.sound_times).min() > 0


def test_parts_of_a_fifth_of_a_second(tmp_path: Path) -> None:
    part = make(tmp_path / "part.vob", "mpeg2video", number=5)
    film, notes = colorized(join(tmp_path / "a.vob", part, part, part))
    assert notes == (RESTARTS,)
    assert np.diff(film.times) == pytest.approx(0.04, abs=0.002)
    assert len(film.times) == 15


def test_recorders_that_restart_their_clock(tmp_path: Path) -> None:
    """FLV, whose sound of one segment ends a part of a packet after its frames, is encoded and stays in place."""
    part = make(tmp_path / "part.flv", "flv", sound="adpcm_swf", sound_rate=11_025).read_bytes()
    (tmp_path / "a.flv").write_bytes(part + part[13:] + part[13:])
    film, notes = colorized(tmp_path / "a.flv")
    assert notes == ("audio in adpcm_swf encoded as AAC", RESTARTS)
    assert np.diff(film.times) == pytest.approx(0.04, abs=0.07)
    assert film.sound_times[-1] - film.times[-1] < 0.2


def test_clocks_that_wrap_and_pauses_stay(tmp_path: Path) -> None:
    wrap = make(tmp_path / "wrap.ts", sound="mp2", start=(1 << 33) // 90_000, number=50)
    film, notes = colorized(wrap)
    assert notes == ()
    assert np.diff(film.times) == pytest.approx(0.04, abs=0.002)
    assert film.sound_times[-1] == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize(("name", "codec", "sound", "rate"), COPIED)
def test_sound_is_copied(tmp_path: Path, name: str, codec: str, sound: str, rate: int) -> None:
    source = make(tmp_path / name, codec, sound=sound, sound_rate=rate)
    film, notes = colorized(source)
    assert notes == ()
    assert b"".join(film.sound) == b"".join(read(source).sound)
    assert len(film.frames) == 25


@contextmanager
def malloc_fills(byte: int) -> Iterator[None]:
    """Lets glibc's `malloc` fill new memory with the inverse of a byte, and freed memory with it; with 0, neither."""
    perturb, libc = -6, ctypes.CDLL(None)  # M_PERTURB of malloc.h
    try:
        assert libc.mallopt(perturb, byte)
        yield
    finally:
        libc.mallopt(perturb, 0)


@pytest.mark.parametrize("kind", [COPIED[1], ENCODED[1][:4]])
def test_the_same_film_has_the_same_bytes(tmp_path: Path, kind: tuple[str, str, str, int]) -> None:
    name, codec, sound, rate = kind
    source = make(tmp_path / name, codec, sound=sound, sound_rate=rate)
    results = []
    for byte in (0, 85, 170):  # x264 once read memory that it had not written
        with malloc_fills(byte):
            colorized(source)
        results.append((tmp_path / "out" / f"{name}.mkv").read_bytes())
    assert results == results[:1] * 3


@pytest.mark.parametrize(("name", "codec", "sound", "rate", "result"), ENCODED)
def test_other_sound_is_encoded(tmp_path: Path, name: str, codec: str, sound: str, rate: int, result: str) -> None:
    container_format = "matroska" if name == "a.webm" else None
    source = make(tmp_path / name, codec, sound=sound, sound_rate=rate, container_format=container_format)
    film, notes = colorized(source)
    names = {"aac": "AAC", "opus": "Opus"}
    assert notes == (f"audio in {sound} encoded as {names[result]}",)
    assert film.codecs[1] in (result, f"lib{result}")
    (target,) = (tmp_path / "out").iterdir()
    with av.open(str(target)) as container:
        blocks = [frame.to_ndarray()[0].astype(np.float32) for frame in container.decode(audio=0)]
        sound_rate = container.streams.audio[0].rate
    wave = np.concatenate(blocks)[sound_rate // 4 : sound_rate // 2]
    peak = np.abs(np.fft.rfft(wave)).argmax() * sound_rate / len(wave)
    assert peak == pytest.approx(0.05 * rate / 2 / np.pi, rel=0.1, abs=5)
    assert film.sound_times[-1] == pytest.approx(1, abs=0.15)


def test_last_frames_of_a_film_whose_sound_comes_first(tmp_path: Path) -> None:
    film, _ = colorized(make(tmp_path / "a.mkv", sound="aac", sound_first=True))
    assert len(film.frames) == 25


# FFmpeg's own players turn by these filters (fftools/ffmpeg_filter.c); a matrix maps (x, y) to (a x + c y, b x + d y).
POSITIONS = {
    (1, 0, 0, 1): "null",
    (-1, 0, 0, 1): "hflip",
    (1, 0, 0, -1): "vflip",
    (-1, 0, 0, -1): "hflip,vflip",
    (0, 1, -1, 0): "transpose=clock",
    (0, -1, 1, 0): "transpose=cclock",
    (0, 1, 1, 0): "transpose=cclock_flip",
    (0, -1, -1, 0): "transpose=clock_flip",
}


def with_matrix(source: Path, name: str, matrix: tuple[float, ...]) -> Path:
    content = source.read_bytes()
    place = content.index(b"tkhd") + 44
    a, b, c, d = (round(value * 65536) for value in matrix)
    target = source.with_name(name)
    target.write_bytes(content[:place] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + content[place + 36 :])
    return target


def filtered(source: Path, filters: str) -> np.ndarray:
    with av.open(str(source)) as container:
        frame = next(container.decode(video=0))
        graph = Graph()
        nodes = [graph.add_buffer(template=container.streams.video[0])]
        nodes.extend(graph.add(*name.split("=")) for name in filters.split(","))
        nodes.append(graph.add("buffersink"))
        graph.link_nodes(*nodes).configure()
        graph.push(frame)
        result = graph.pull()
    assert isinstance(result, av.VideoFrame)
    return result.to_ndarray(format="gray")


def test_display_matrices_in_all_eight_positions(tmp_path: Path) -> None:
    plain = make(tmp_path / "plain.mp4", size=(48, 32), number=3, options={"crf": "1"})
    for matrix, filters in POSITIONS.items():
        film, notes = colorized(with_matrix(plain, "a.mp4", matrix))
        expected = filtered(plain, filters)
        assert notes == (() if filters == "null" else ("turned upright",))
        assert film.frames[0].shape == expected.shape
        assert np.abs(film.frames[0].astype(int) - expected).mean() < 5, filters


@pytest.mark.parametrize(("degrees", "shape"), [(10, (32, 48)), (100, (48, 32))])
def test_other_angles_are_noted(tmp_path: Path, degrees: int, shape: tuple[int, int]) -> None:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    plain = make(tmp_path / "plain.mp4", size=(48, 32), number=3)
    film, notes = colorized(with_matrix(plain, "a.mp4", (cosine, sine, -sine, cosine)))
    assert film.frames[0].shape == shape
    assert "turned to the nearest quarter" in notes


@pytest.mark.parametrize(("rate", "end"), [(rate, end) for rate in (1, 5) for end in ("mp4", "mkv", "mov")])
def test_few_frames_per_second(tmp_path: Path, rate: int, end: str) -> None:
    film, notes = colorized(make(tmp_path / f"a.{end}", rate=rate, number=4 * rate))  # with B-frames
    assert notes == ()
    assert np.diff(film.times) == pytest.approx(1 / rate, abs=0.001)


@pytest.mark.parametrize("end", ["mp4", "mkv"])
def test_longer_further_tracks(tmp_path: Path, end: str) -> None:
    film, notes = colorized(make(tmp_path / f"a.{end}", second_video=100))
    assert (len(film.frames), notes) == (25, ("further video streams dropped",))
    film, notes = colorized(make(tmp_path / f"b.{end}", sound="aac", seconds=4))
    assert (len(film.frames), notes) == (25, ())
    assert film.sound_times[-1] > 3.9


def remux(
    source: Path, target: Path, *, lost: tuple[float, float] = (0, 0), options: dict[str, str] | None = None
) -> Path:
    """Copies all packets except those between two times."""
    with av.open(str(source)) as old, av.open(str(target), "w", options=options or {}) as new:
        copies = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.size and not lost[0] <= (packet.pts or 0) * packet.time_base < lost[1]:
                packet.stream = copies[packet.stream_index]
                new.mux(packet)
    return target


def damage(path: Path, places: list[int], parts: int = 1) -> Path:
    """Overwrites packets of the video, or the last of their `parts`."""
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    for place in places:
        end = content.index(packets[place]) + len(packets[place])
        size = len(packets[place]) // parts
        content[end - size : end] = bytes(size)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("codec", "end", "parts"), [("png", "mov", 1), ("mjpeg", "mp4", 1), ("mpeg4", "avi", 2)])
@pytest.mark.parametrize("places", [[7], [0], [24], [11, 12]])
def test_damaged_frames_are_bridged_and_counted(
    tmp_path: Path, codec: str, end: str, parts: int, places: list[int]
) -> None:
    """Decoders that give no frame, and one that gives a part of it (MPEG-4)."""
    pixels = {"png": "rgb24", "mpeg4": "yuv420p", "mjpeg": "yuvj420p"}[codec]
    source = damage(make(tmp_path / f"a.{end}", codec, pixels=pixels, sound="mp2", options={"g": "1"}), places, parts)
    film, notes = colorized(source)
    assert notes == (f"damaged frames bridged: {len(places)}, the first at {places[0] / 25:.2f} s",)
    whole = [round(time * 25) for time in film.times]
    assert [place for place in range(25) if place not in whole] in (places, [], [0])
    assert len(film.sound) > 40


@pytest.mark.parametrize("number", [12, 90])
def test_reordered_frames_in_avi_are_not_taken_for_lost_ones(tmp_path: Path, number: int) -> None:
    film, notes = colorized(make(tmp_path / "a.avi", number=number, options={"bf": "3"}))
    assert (len(film.frames), notes) == (number, ())


def test_damaged_sound_is_left_silent(tmp_path: Path) -> None:
    """Packets that the container refuses; and samples so loud that FFmpeg's AAC encoder does not end."""
    source = make(tmp_path / "a.ts", sound="aac")
    content = bytearray(source.read_bytes())
    packets = read(source).sound
    for packet in packets[20:23]:  # after the header of a packet of the transport stream
        place = content.find(packet[:16])
        content[place : place + 7] = bytes(7)
    source.write_bytes(content)
    film, notes = colorized(source)
    assert len(film.frames) == 25
    assert len(film.sound) in range(len(packets) - 12, len(packets))
    assert all("sound" in note for note in notes)
    loud = tmp_path / "b.mp4"
    with av.open(str(loud), "w", format="matroska") as container:
        video = container.add_stream("libx264", rate=25, width=32, height=32)
        sound = container.add_stream("wavpack", rate=8000, layout="mono")
        for place in range(25):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 80, np.uint8), "rgb24")))
            samples = av.AudioFrame.from_ndarray(np.full((1, 320), 5e9 * (-1) ** place, np.float32), "fltp", "mono")
            samples.sample_rate, samples.pts, samples.time_base = 8000, 320 * place, Fraction(1, 8000)
            container.mux(sound.encode(samples))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    film, notes = colorized(loud)
    assert notes == ("audio in wavpack encoded as AAC",)
    assert film.sound_times[-1] == pytest.approx(1, abs=0.15)


@pytest.mark.slow
def test_random_damage_is_a_sentence_or_a_film(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, codec, sound, rate in [*COPIED[1:4], *COPIED[7:9], *(kind[:4] for kind in ENCODED[:3])]:
        whole = make(tmp_path / name, codec, sound=sound, sound_rate=rate).read_bytes()
        for _ in range(10):
            content = bytearray(whole)
            for place in random.integers(0, len(whole), random.choice((1, 3, 20))):
                content[place : place + 40] = random.bytes(len(content[place : place + 40]))
            (tmp_path / name).write_bytes(content)
            with suppress(Rejected):
                assert colorized(tmp_path / name)[0].frames
    assert all(path.suffix in (".mkv", ".mov") for path in (tmp_path / "out").iterdir())


def test_missing_frames_and_sound_are_noted(tmp_path: Path) -> None:
    """As in files whose damage the reader has skipped; where frames alone are missing, they can be far apart."""
    source = make(tmp_path / "a.mkv", number=50, sound="aac", options={"bf": "0", "g": "1"})
    film, notes = colorized(remux(source, tmp_path / "b.mkv", lost=(0.78, 1.18)))
    assert len(film.frames) == 40
    assert (
        colorized(remux(make(tmp_path / "c.mkv", rate=1, number=3, sound="aac"), tmp_path / "d.mkv", lost=(1.3, 1.7)))[
            1
        ]
        == ()
    )
    assert [note[:-5] for note in notes] == ["gaps in picture and sound: 1, the first at 0"]


def test_more_than_a_tenth_damaged_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    source = damage(make(tmp_path / "a.mov", "png", pixels="rgb24"), [5, 6, 20])
    with pytest.raises(Rejected, match=r"^damaged: more than 10% of its frames, from 0\.20 s$"):
        colorized(source)
    assert not list((tmp_path / "out").iterdir())


def test_interlaced_and_slow_starts(tmp_path: Path) -> None:
    film, notes = colorized(make(tmp_path / "a.vob", "mpeg2video", options={"flags": "+ildct+ilme"}))
    assert (len(film.frames), notes) == (25, ("interlaced fields became whole frames",))
    film, notes = colorized(make(tmp_path / "b.mp4", sound="aac", start=3))
    assert (film.times[0], notes) == (3, ())


def test_broadcasts_cut_anywhere_and_unfinished_recordings(tmp_path: Path) -> None:
    """A clip that begins between keyframes begins at the next one; what was not finished has no end to miss."""
    content = make(tmp_path / "a.ts", number=60, sound="mp2", options={"g": "12"}).read_bytes()
    (tmp_path / "b.ts").write_bytes(content[len(content) // 2 // 188 * 188 :])
    film, notes = colorized(tmp_path / "b.ts")
    assert notes == ()
    assert 12 < len(film.frames) < 40
    content = remux(make(tmp_path / "a.mp4", number=50), tmp_path / "live.mkv", options={"live": "1"}).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) * 2 // 3])
    film, notes = colorized(tmp_path / "cut.mkv")
    assert notes == ()
    assert 20 < len(film.frames) < 50
