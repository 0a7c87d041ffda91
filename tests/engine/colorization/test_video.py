"""Videos written, colorized and read by FFmpeg: frames, their times and lightness, and the bytes of the audio."""

import json
import sys
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from photochrom.engine.cli import main
from photochrom.engine.colorization.batch import ColorizeResult
from photochrom.engine.colorization.colorize import ColorizedImage, colorize
from photochrom.engine.colorization.inputs import make_plan
from photochrom.engine.colorization.run import INSTALL_AV
from photochrom.engine.colorization.video import colorize_video
from photochrom.engine.colorization.video_reader import Frame, VideoReader
from photochrom.models import Colorizer, ColorPrediction
from photochrom.pipelines.imaging.decode import Rejected
from skimage.color import rgb2lab

RATE = 48_000


class Painter(Colorizer):
    """Predicts one colour for every frame."""

    def __init__(self, a: float = 15, b: float = 10) -> None:
        super().__init__()
        self.color = torch.tensor([float(a), float(b)])

    def forward(self, L: torch.Tensor) -> ColorPrediction:
        ab = self.color.view(1, 2, 1, 1).expand(len(L), 2, -(-L.shape[2] // 4), -(-L.shape[3] // 4))
        return ColorPrediction(output=ab, input_size=(L.shape[2], L.shape[3]))


@dataclass
class Video:
    """A file's content, with frames in rgb24 as FFmpeg converts them."""

    duration: int
    frames: list[np.ndarray] = field(default_factory=list)
    times: list[Fraction] = field(default_factory=list)
    packets: dict[str, list[bytes]] = field(default_factory=dict)
    packet_times: dict[str, list[float]] = field(default_factory=dict)


def grey_frames(number: int, width: int, height: int) -> list[np.ndarray]:
    """Returns a grey ramp that changes over time."""
    ramp = np.linspace(40, 200, width)[None, :, None] * np.ones((height, 1, 3))
    return [(ramp + 20 * np.sin(step / 3)).astype(np.uint8) for step in range(number)]


def make(
    path: Path,
    *,
    number: int = 12,
    size: tuple[int, int] = (96, 64),
    codec: str = "libx264",
    pixels: str = "yuv420p",
    audio: str | None = "aac",
    times: list[int] | None = None,
    start: int = 0,
    unit: Fraction = Fraction(1, 25),
    before: Any = lambda container, stream: None,
    reformat: dict[str, int] | None = None,
    frames: list[np.ndarray] | None = None,
) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        (stream.width, stream.height), stream.pix_fmt = size, pixels
        stream.codec_context.time_base = unit
        before(container, stream)
        sound = container.add_stream(audio, rate=RATE, layout="stereo") if audio else None
        for place, image in enumerate(frames or grey_frames(number, *size)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels, **(reformat or {}))
            frame.pts, frame.time_base = (times[place] if times else place + 25 * start), unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound:
            wave = (8000 * np.sin(np.arange(2 * RATE * number // 25) * 0.03)).astype(np.int16)[None]
            for place in range(0, wave.shape[1], 2 * 1024):
                frame = av.AudioFrame.from_ndarray(wave[:, place : place + 2 * 1024], format="s16", layout="stereo")
                frame.sample_rate, frame.pts, frame.time_base = RATE, place // 2 + RATE * start, Fraction(1, RATE)
                container.mux(sound.encode(frame))
            container.mux(sound.encode())
    return path


def read(path: Path) -> Video:
    with av.open(str(path)) as container:
        video = Video(container.duration)
        for packet in container.demux():
            if packet.stream.type == "video":
                for frame in packet.decode():
                    video.frames.append(frame.to_ndarray(format="rgb24"))
                    video.times.append(frame.pts * frame.time_base)
            elif packet.dts is not None:
                video.packets.setdefault(packet.stream.type, []).append(bytes(packet))
                video.packet_times.setdefault(packet.stream.type, []).append(float(packet.pts * packet.time_base))
    return video


def colorized(source: Path, painter: Painter | None = None) -> tuple[Video, Video, ColorizeResult]:
    """Colorizes a video; returns it before and after, and the result."""
    (task,) = make_plan([str(source)], source.parent / "out").tasks
    result = colorize_video(painter or Painter(), task, size=32, device=torch.device("cpu"), batch_size=5)
    assert [path.name for path in task.target.parent.iterdir()] == [task.target.name]
    return read(source), read(task.target), result


def check_colors(before: Video, after: Video) -> None:
    """Asserts that lightness is the original's and colour the painter's."""
    for grey, color in zip(before.frames, after.frames, strict=True):
        lab, reference = rgb2lab(color), rgb2lab(grey)
        assert np.abs(lab[..., 0] - reference[..., 0]).mean() < 1
        assert np.abs(lab[..., 1:].mean(axis=(0, 1)) - (15, 10)).max() < 1.5


@pytest.mark.parametrize(
    ("name", "settings", "target", "codec"),
    [
        ("a.mp4", {}, "a.mp4", "h264"),
        ("a.MOV", {"codec": "mpeg4", "audio": "pcm_s16le"}, "a.MOV", "h264"),
        ("a.mkv", {"codec": "ffv1", "pixels": "yuv444p", "audio": "libopus"}, "a.mkv", "h264"),
        ("a.webm", {"codec": "libvpx-vp9", "audio": "libopus", "size": (95, 63)}, "a.webm", "vp9"),
        ("a.avi", {"codec": "mjpeg", "pixels": "yuvj420p", "audio": "mp2"}, "a.avi.mkv", "h264"),
    ],
)
def test_containers(tmp_path: Path, name: str, settings: dict[str, Any], target: str, codec: str) -> None:
    before, after, result = colorized(make(tmp_path / name, **settings))
    assert result.task.target.name == target
    assert result.num_frames == len(after.frames) == 12
    assert after.times == pytest.approx(before.times, abs=1e-9)
    assert after.packets["audio"] == before.packets["audio"]
    assert after.packet_times["audio"] == pytest.approx(before.packet_times["audio"], abs=1e-3)
    assert after.duration == pytest.approx(before.duration, abs=2000)
    assert result.notes == ()
    check_colors(before, after)
    with av.open(str(result.task.target)) as container:
        assert container.streams.video[0].codec_context.name == codec


def test_frames_of_uneven_length_keep_their_times(tmp_path: Path) -> None:
    times = [0, 40, 80, 120, 500, 540, 600, 1000, 1033, 1066]
    before, after, _ = colorized(make(tmp_path / "a.mp4", number=10, times=times, unit=Fraction(1, 1000)))
    assert after.times == before.times == [Fraction(time, 1000) for time in times]
    assert after.duration == pytest.approx(before.duration, abs=40_000)
    with closing(VideoReader(tmp_path / "a.mp4")) as reader:  # MP4 itself has lengths only in the order of decoding
        frames = [item for item in reader.items([]) if isinstance(item, Frame)]
    assert [frame.duration * reader.time_base for frame in frames[:-1]] == np.diff(before.times).tolist()


@pytest.mark.parametrize("matrix", [1, 6])  # BT.709, SMPTE 170M, as FFmpeg numbers them
@pytest.mark.parametrize("is_full", [False, True])
def test_matrix_and_range_are_respected(tmp_path: Path, matrix: int, is_full: bool) -> None:
    """With a colour whose lightness depends on them."""
    image = np.full((64, 96, 3), (120, 40, 20), np.uint8)

    def tell(container: Any, stream: Any) -> None:
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 2 if is_full else 1
        stream.codec_context.color_trc = 1

    reformat = {"dst_colorspace": {1: 1, 6: 5}[matrix], "dst_color_range": 2 if is_full else 1}
    source = make(tmp_path / "a.mkv", codec="ffv1", frames=[image] * 5, audio=None, before=tell, reformat=reformat)
    _, _, result = colorized(source, Painter(30, 25))
    with av.open(str(result.task.target)) as container:
        frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_range, frame.color_trc) == (matrix, 1, 1)
        lab = rgb2lab(frame.to_ndarray(format="rgb24"))
    assert np.abs(lab - [rgb2lab(image)[0, 0, 0], 30, 25]).max() < 1.5


def test_rotated_videos_become_upright(tmp_path: Path) -> None:
    """Rotated by a quarter to the left, with pixels wider than high, and a white corner."""
    image = np.full((64, 96, 3), 60, np.uint8)
    image[:20, :30] = 220

    def turn(container: Any, stream: Any) -> None:
        stream.set_display_rotation(90)
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    _, after, result = colorized(make(tmp_path / "a.mp4", frames=[image] * 5, audio=None, before=turn))
    assert result.notes == ("turned upright",)
    lightness = rgb2lab(after.frames[2])[..., 0]
    assert lightness.shape == (96, 64)
    assert lightness[76:, :10].min() > 75  # the upper left corner, turned to the left, is the lower left one
    assert lightness[:50].max() < 40
    with av.open(str(result.task.target)) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(3, 4)
        assert next(container.decode(video=0)).rotation == 0


def test_odd_sides_in_h264(tmp_path: Path) -> None:
    before, after, result = colorized(make(tmp_path / "a.mkv", size=(97, 63), codec="ffv1", pixels="yuv444p"))
    assert result.notes == ("a row or column of pixels added, as H.264 needs even sides",)
    assert after.frames[0].shape == (64, 98, 3)
    after.frames = [frame[:63, :97] for frame in after.frames]
    check_colors(before, after)


def test_metadata_and_other_streams(tmp_path: Path) -> None:
    """Titles, a language, chapters, subtitles and a cover picture."""
    cover = np.full((64, 64, 3), 200, np.uint8)

    def add(container: Any, stream: Any) -> None:
        container.metadata["title"] = "Hof"
        container.set_chapters(
            [{"id": 1, "start": 0, "end": 200, "time_base": Fraction(1, 1000), "metadata": {"title": "One"}}]
        )

    plain = make(tmp_path / "plain.mkv", codec="ffv1", before=add)
    source = tmp_path / "a.mkv"
    with av.open(str(plain)) as old, av.open(str(source), "w") as new:
        new.metadata.update(old.metadata)
        new.set_chapters(old.chapters())
        copies = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        copies[1].metadata["language"] = "deu"
        subtitles = new.add_mux_stream("subrip")
        subtitles.metadata["language"] = "fra"
        new.add_attachment("font.ttf", "font/ttf", cover.tobytes())
        for packet in old.demux():
            if packet.dts is not None:
                packet.stream = copies[packet.stream_index]
                new.mux(packet)
        line = av.Packet(b"Bonjour")
        line.stream, line.time_base, line.pts, line.dts, line.duration = subtitles, Fraction(1, 1000), 40, 40, 200
        new.mux(line)
    before, after, result = colorized(source)
    assert before.packets["subtitle"] == after.packets["subtitle"] == [b"Bonjour"]
    assert after.packets["audio"] == before.packets["audio"]
    assert result.notes == ("attachments dropped",)
    with av.open(str(result.task.target)) as container:
        assert container.metadata["title"] == "Hof"
        assert [chapter["metadata"]["title"] for chapter in container.chapters()] == ["One"]
        assert [stream.metadata.get("language") for stream in container.streams] == [None, "deu", "fra"]


def test_broadcasts_begin_at_zero(tmp_path: Path) -> None:
    before, after, _ = colorized(make(tmp_path / "a.ts", audio="mp2", start=10))
    assert before.times[0] > 1
    assert 0 <= after.times[0] < 0.2
    shifts = [old - new for old, new in zip(before.times, after.times, strict=True)]
    assert max(shifts) - min(shifts) < 0.002
    assert before.packet_times["audio"][0] - after.packet_times["audio"][0] == pytest.approx(
        float(shifts[0]), abs=0.002
    )


def test_reduced_depth_is_noted(tmp_path: Path) -> None:
    _, _, result = colorized(make(tmp_path / "a.mkv", codec="ffv1", pixels="yuv420p10le", audio=None))
    assert result.notes == ("reduced to 8 bit",)


@pytest.mark.parametrize("batch_size", [1, 64])
def test_batches_of_every_size(tmp_path: Path, batch_size: int) -> None:
    calls: list[tuple[int, int | None]] = []
    (task,) = make_plan([str(make(tmp_path / "a.mp4"))], tmp_path / "out").tasks
    settings = {"size": 32, "device": torch.device("cpu"), "batch_size": batch_size}
    result = colorize_video(Painter(90, 90), task, progress=lambda done, total: calls.append((done, total)), **settings)
    assert calls[-1] == (12, 12)
    assert (result.num_frames, result.pixels) == (12, 12 * 96 * 64)
    assert result.clipped > 0.99
    assert len(read(task.target).frames) == 12


def high_range(container: Any, stream: Any) -> None:
    stream.codec_context.color_trc = 16


def damaged(folder: Path) -> dict[str, tuple[Path, str]]:
    """Makes files that cannot be colorized; returns them with the reason."""
    whole = make(folder / "whole.mp4", number=50).read_bytes()
    streamed = make(folder / "whole.mkv", number=50).read_bytes()
    flipped = bytearray(whole)
    start = whole.index(b"mdat")
    flipped[start + 100 : start + 1500 : 7] = bytes(200)
    sound = folder / "sound.mkv"
    with av.open(str(folder / "whole.mkv")) as old, av.open(str(sound), "w") as new:
        copy = new.add_stream_from_template(old.streams.audio[0])
        for packet in old.demux(audio=0):
            if packet.dts is not None:
                packet.stream = copy
                new.mux(packet)
    contents = {
        "no-index.mp4": (whole[: len(whole) // 2], "not a video"),
        "cut.mkv": (streamed[: len(streamed) // 2], "damaged: it ends after"),
        "flipped.mp4": (bytes(flipped), "damaged"),
        "empty.mov": (b"", "not a video"),
        "text.avi": (b"no video" * 100, "not a video"),
        # FFmpeg would open what these name.
        "concat.mp4": (b"ffconcat version 1.0\nfile whole.mp4\n", "not a video"),
        "list.mp4": (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nwhole.mp4\n#EXT-X-ENDLIST\n", "not a video"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    make(folder / "hdr.mkv", before=high_range, audio=None)
    reasons = {name: reason for name, (_, reason) in contents.items()}
    reasons |= {"sound.mkv": "not a video: it has no video stream", "hdr.mkv": "unsupported pixels: it is HDR (PQ)"}
    return {name: (folder / name, reason) for name, reason in reasons.items()}


def test_rejected_videos_have_a_reason_and_leave_no_file(tmp_path: Path) -> None:
    for source, reason in damaged(tmp_path).values():
        (task,) = make_plan([str(source)], tmp_path / "out").tasks
        with pytest.raises(Rejected) as caught:
            colorize_video(Painter(), task, size=32, device=torch.device("cpu"), batch_size=5)
        assert str(caught.value).startswith(reason), source.name
    assert not list((tmp_path / "out").iterdir())


def test_by_command(trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in"
    source.mkdir()
    make(source / "film.mp4")
    (source / "cut.mp4").write_bytes((source / "film.mp4").read_bytes()[:2000])
    (source / "rocket.jpg").write_bytes((photos / "rocket.jpg").read_bytes())
    command = ["colorize", "--model", str(trained), str(source), "--out", str(tmp_path / "out")]
    assert main(command) == 1
    captured = capsys.readouterr()
    assert "2 files colorized (12 frames of video) in " in captured.out
    assert f"not colorized: {source / 'cut.mp4'}: not a video" in captured.err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["num_done"], summary["num_failed"], summary["num_frames"]) == (2, 1, 12)
    assert len(read(tmp_path / "out" / "film.mp4").frames) == 12
    (source / "cut.mp4").unlink()
    assert main(command) == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["num_kept"] == 2


def test_without_pyav_images_are_colorized_and_videos_fail(
    trained: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    make(source / "film.mp4", number=3)
    (source / "rocket.jpg").write_bytes((photos / "rocket.jpg").read_bytes())
    monkeypatch.setitem(sys.modules, "av", None)
    for name in ("video", "video_reader", "video_writer"):
        monkeypatch.delitem(sys.modules, f"photochrom.engine.colorization.{name}", raising=False)
    assert main(["colorize", "--model", str(trained), str(source), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.strip() == f"not colorized: {source / 'film.mp4'}: unreadable: {INSTALL_AV}"
    assert (tmp_path / "out" / "rocket.jpg").exists()


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.webm"])
def test_the_same_video_has_the_same_bytes(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    is_webm = name.endswith("webm")
    source = make(tmp_path / f"-a:{name}", codec="libvpx-vp9" if is_webm else "libx264", audio=None, number=6)
    results = [Path(folder, source.name) for folder in ("first", "sec:ond")]  # no address, though it has a colon
    for result in results:
        (task,) = make_plan([source.name], result.parent).tasks
        colorize_video(Painter(), task, size=32, device=torch.device("cpu"), batch_size=5)
    assert results[0].read_bytes() == results[1].read_bytes()


def test_a_video_that_lacks_memory_is_listed_and_the_others_colorized(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "large.mp4", number=3, size=(128, 128))
    make(tmp_path / "small.mp4", number=3)

    def colorize_small(model: Painter, images: list[np.ndarray], **options: Any) -> list[ColorizedImage]:
        if images and images[0].shape[0] == 128:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
        return colorize(model, images, **options)

    monkeypatch.setattr("photochrom.engine.colorization.video.colorize", colorize_small)
    command = ["colorize", "--model", str(trained), *map(str, tmp_path.glob("*.mp4")), "--out", str(tmp_path / "out")]
    assert main(command) == 1
    assert f"not colorized: {tmp_path / 'large.mp4'}: not enough memory: lower --size\n" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "small.mp4",
        ".made-by.json",
        "config.yaml",
        "summary.json",
    }
