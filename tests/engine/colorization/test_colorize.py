import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from photochrom.engine.checkpoints.model_file import model_file, read_metadata, read_tensors, save_model
from photochrom.engine.cli import main
from photochrom.engine.colorization import batch, write_image
from photochrom.engine.colorization import colorize as core
from photochrom.engine.colorization.colorize import ColorizedImage, colorize
from photochrom.models import Colorizer, ColorPrediction
from photochrom.pipelines.imaging.color import lab_to_gamut
from PIL import Image
from skimage.color import rgb2lab

CPU = torch.device("cpu")


class Painter(Colorizer):
    """Predicts one colour, and remembers its inputs."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.color = torch.tensor([float(a), float(b)]).view(1, 2, 1, 1)
        self.inputs: list[torch.Tensor] = []

    def forward(self, L: torch.Tensor) -> ColorPrediction:
        self.inputs.append(L)
        ab = self.color.to(L).expand(len(L), 2, -(-L.shape[2] // 4), -(-L.shape[3] // 4))
        return ColorPrediction(output=ab, input_size=(L.shape[2], L.shape[3]))


@pytest.fixture(scope="module")
def coffee(photos: Path) -> np.ndarray:
    return np.asarray(Image.open(photos / "coffee.png").convert("RGB"))


def lab(pixels: np.ndarray) -> np.ndarray:
    return rgb2lab(pixels / np.iinfo(pixels.dtype).max)


def choose_path(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Lets "torch", the path of GPUs, run on the CPU too."""
    if path == "torch":
        monkeypatch.setattr(core, "_to_lightness_numba", lambda image: core._to_lightness_torch(image, CPU))
        monkeypatch.setattr(core, "_to_rgb_numba", core._to_rgb_torch)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("path", ["numba", "torch"])
def test_lightness_is_kept_at_full_resolution_and_color_is_predicted(
    coffee: np.ndarray, dtype: type, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_path(monkeypatch, path)
    original = coffee.astype(dtype) * dtype(np.iinfo(dtype).max // 255)
    (result,) = colorize(Painter(5, -5), [original], size=64, device=CPU)
    assert result.pixels.dtype == dtype
    before, after = lab(original), lab(result.pixels)
    middle = (before[..., 0] > 20) & (before[..., 0] < 90)
    step = 1 if dtype == np.uint8 else 1 / 257
    assert np.abs(after[middle][:, 0] - before[middle][:, 0]).max() < 0.5 * step
    assert np.abs(after[middle][:, 1:] - (5, -5)).max() < 1.5 * step
    assert 0 < result.clipped < 0.3  # what is next to black or white


@pytest.mark.parametrize("path", ["numba", "torch"])
def test_colors_outside_srgb_lose_chroma_not_lightness(
    coffee: np.ndarray, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_path(monkeypatch, path)
    (result,) = colorize(Painter(90, 90), [coffee], size=64, device=CPU)
    assert np.abs(lab(result.pixels)[..., 0] - lab(coffee)[..., 0]).max() < 1
    assert result.clipped > 0.99


def test_numba_agrees_with_torch() -> None:
    """On random lightness and colours, two thirds of them outside sRGB."""
    draw = torch.Generator().manual_seed(0)
    L = 100 * torch.rand(1, 1, 200, 300, generator=draw)
    ab = 180 * torch.rand(1, 2, 200, 300, generator=draw) - 90
    numba_result = core._to_rgb(L, ab, np.dtype(np.uint8))
    rgb, outside = lab_to_gamut(L, ab)
    reference = (rgb[0].permute(1, 2, 0) * 255).round().numpy()
    assert np.abs(numba_result.pixels - reference).max() <= 1
    assert np.abs(numba_result.pixels - reference).mean() < 0.01
    assert numba_result.clipped == pytest.approx(outside, abs=1e-4)


@pytest.mark.parametrize(("size", "shape"), [(64, (64, 96)), (400, (400, 600)), (1000, (400, 600)), (None, (400, 600))])
def test_the_network_sees_a_small_copy_never_an_enlarged_one(
    coffee: np.ndarray, size: int | None, shape: tuple[int, int]
) -> None:
    painter = Painter(0, 0)
    colorize(painter, [coffee], size=size, device=CPU)
    assert painter.inputs[0].shape == (1, 1, *shape)


def test_images_of_one_reduced_size_form_a_batch(coffee: np.ndarray) -> None:
    painter = Painter(10, 10)
    several = [coffee, coffee[::2, ::2], coffee[:, :300], coffee[1:]]
    together = colorize(painter, several, size=64, device=CPU)
    assert [tuple(L.shape) for L in painter.inputs] == [(3, 1, 64, 96), (1, 1, 85, 64)]
    for picture, result in zip(several, together, strict=True):
        (alone,) = colorize(painter, [picture], size=64, device=CPU)
        assert np.array_equal(result.pixels, alone.pixels)
        assert result.clipped == alone.clipped


@pytest.mark.parametrize("shape", [(1, 1), (3, 70), (1, 9), (257, 5)])
def test_images_of_every_size(shape: tuple[int, int]) -> None:
    grey = np.full((*shape, 3), 120, np.uint8)
    (result,) = colorize(Painter(10, 10), [grey], size=64, device=CPU)
    assert np.abs(lab(result.pixels) - [lab(grey)[0, 0, 0], 10, 10]).max() < 1


def test_strips_leave_no_seams(coffee: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    (whole,) = colorize(Painter(60, 20), [coffee], size=64, device=CPU)
    monkeypatch.setattr("photochrom.engine.colorization.colorize._ROWS", 7)
    (strips,) = colorize(Painter(60, 20), [coffee], size=64, device=CPU)
    assert np.array_equal(strips.pixels, whole.pixels)
    assert strips.clipped == whole.clipped


def test_files_and_folders(trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = Path(shutil.copytree(photos, tmp_path / "in"))
    (source / "notes.txt").write_text("no photograph")
    Image.open(photos / "coffee.png").convert("L").save(source / "old.bmp")
    Image.open(photos / "coffee.png").save(source / "side.tif", tiffinfo={0x0112: 6})
    out = tmp_path / "out"
    assert main(["colorize", "--model", str(trained), str(source), "--out", str(out), "--contact-sheet"]) == 0
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    expected = {path.relative_to(photos).as_posix() for path in photos.rglob("*.*")} | {"old.bmp.png", "side.tif"}
    assert files == expected | {"summary.json", "config.yaml", ".made-by.json", "before-after.jpg"}
    for path in photos.rglob("*.*"):
        colored, original = Image.open(out / path.relative_to(photos)), Image.open(path)
        assert colored.size == original.size
        assert colored.mode == "RGB"
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["num_done"], summary["num_kept"], summary["num_failed"]) == (11, 0, 0)
    assert summary["images_per_second"] == pytest.approx(11 / summary["seconds"], rel=0.01)
    assert summary["notes"] == {"turned upright": 1, "brought to sRGB": 1}  # one of them has another profile
    (turned,) = [file["path"] for file in summary["files"] if "turned upright" in file["notes"]]
    assert turned == str(source / "side.tif")
    shares = [file["clipped_share"] for file in summary["files"]]
    assert min(shares) <= summary["clipped_share"] <= max(shares)
    printed = capsys.readouterr().out
    assert "11 files colorized in " in printed
    assert "images/s" in printed
    assert "% of the pixels: sRGB cannot show the colours" in printed
    assert "1 turned upright" in printed


def test_a_contact_sheet_shows_before_and_after(trained: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["colorize", "--model", str(trained), str(photos / "coffee.png"), "--out", str(out), "--contact-sheet"]
    assert main(command) == 0
    sheet = np.asarray(Image.open(out / "before-after.jpg")).astype(int)
    before, after = (
        np.asarray(Image.open(path).resize((360, 240))).astype(int)
        for path in (photos / "coffee.png", out / "coffee.png")
    )
    left, right = sheet[34:274, 12:372], sheet[34:274, 384:744]
    assert np.abs(left - before).mean() < 6
    assert np.abs(right - after).mean() < 6
    assert main(command) == 0  # one of ours is written again
    Image.new("RGB", (9, 9)).save(out / "before-after.jpg")
    assert main(command) == 1


def test_unreadable_files_are_listed_and_the_others_colorized(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    cut = source / "cut.jpg"
    cut.write_bytes((photos / "rocket.jpg").read_bytes()[:-500])
    (source / "empty.png").touch()
    shutil.copy(photos / "rocket.jpg", source / "rocket.jpg")
    assert main(["colorize", "--model", str(trained), f"{tmp_path}/./in", "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert f"not colorized: {cut}: damaged JPEG" in error
    assert f"not colorized: {source / 'empty.png'}: empty file" in error
    assert [path.name for path in sorted((tmp_path / "out").glob("*.[jp]*g"))] == ["rocket.jpg"]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["num_done"], summary["num_failed"]) == (1, 2)
    assert {fault["path"] for fault in summary["failed"]} == {str(cut), str(source / "empty.png")}
    (source / "rocket.jpg").unlink()
    assert main(["colorize", "--model", str(trained), str(source), "--out", str(tmp_path / "none")]) == 1
    assert "none of the 2 files can be colorized: " in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_names_of_every_length(trained: Path, photos: Path, tmp_path: Path) -> None:
    """File systems allow 255 bytes; appending .png can exceed that."""
    source = tmp_path / "in"
    source.mkdir()
    shutil.copy(photos / "rocket.jpg", source / f"{'a' * 251}.jpg")
    Image.open(photos / "coffee.png").save(source / f"{'b' * 251}.gif", "GIF")
    Image.open(photos / "coffee.png").save(source / "c.gif")
    assert main(["colorize", "--model", str(trained), str(source), "--out", str(tmp_path / "out")]) == 1
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["num_done"], summary["num_failed"]) == (2, 1)
    assert "too long" in summary["failed"][0]["reason"]


def test_names_of_every_character(trained: Path, photos: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    names = [b"\xff", b"a\nb", b"c:d", b"-x", b"~t", b"[1]", b"*?", b" ", b"\x1b[31m", b"\\", "\u202egpj".encode()]
    for name in names:
        shutil.copy(photos / "rocket.jpg", source / os.fsdecode(name + b".jpg"))
    out = tmp_path / os.fsdecode(b"-o\xff\n:*")
    command = ["colorize", "--model", str(trained), str(source), f"--out={out}", "--contact-sheet"]
    assert main(command) == main(command) == 0
    assert {path.name for path in source.iterdir()} < {path.name for path in out.iterdir()}
    assert json.loads((out / "summary.json").read_text())["num_kept"] == len(names)


def test_a_folder_where_a_file_should_be(trained: Path, photos: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    (source / "a").mkdir(parents=True)
    shutil.copy(photos / "rocket.jpg", source / "a" / "rocket.jpg")
    shutil.copy(photos / "rocket.jpg", source / "b.jpg")
    out.mkdir()
    (out / "a").write_text("mine")
    assert main(["colorize", "--model", str(trained), str(source), "--out", str(out)]) == 1
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["num_done"], summary["num_failed"]) == (1, 1)
    assert summary["failed"][0]["reason"].startswith("name taken")
    assert (out / "a").read_text() == "mine"


def test_existing_results_are_kept(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "diary.txt").write_text("dear")
    (out / "rocket.jpg").write_text("mine")
    command = ["colorize", "--model", str(trained), "--out", str(out)]
    command += [str(photos / "rocket.jpg"), str(photos / "coffee.png")]
    assert main([*command, "--contact-sheet"]) == 0  # of those that can be read
    assert (out / "rocket.jpg").read_text() == "mine"
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["num_done"], summary["num_kept"]) == (1, 1)
    assert "  2 files seen: 1 colorized, 1 kept\n" in capsys.readouterr().out
    assert main([*command, "--overwrite"]) == 0
    assert Image.open(out / "rocket.jpg").size == Image.open(photos / "rocket.jpg").size
    assert json.loads((out / "summary.json").read_text())["num_done"] == 2
    assert (out / "diary.txt").read_text() == "dear"


@pytest.mark.parametrize(("name", "text"), [("summary.json", "{}"), ("config.yaml", "a: 1"), ("summary.json", "notes")])
def test_other_files_are_not_overwritten(
    trained: Path, photos: Path, tmp_path: Path, name: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(text)
    assert main(["colorize", "--model", str(trained), str(photos / "rocket.jpg"), "--out", str(tmp_path)]) == 1
    assert "was not made by photochrom colorize and would be overwritten" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == text


def test_the_same_command_continues_an_interrupted_run(
    trained: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for number in range(20):
        Image.open(photos / "rocket.jpg").rotate(number).save(source / f"{number:02}.jpg")

    def interrupt_second(*arguments: Any, **options: Any) -> list[ColorizedImage]:
        if batches:
            wait_until(lambda: list(out.glob("*.jpg")))
            signal.raise_signal(signal.SIGINT)
        batches.append(colorize(*arguments, **options))
        return batches[-1]

    batches: list[list[ColorizedImage]] = []
    command = ["colorize", "--model", str(trained), str(source), "--out"]
    assert main([*command, str(tmp_path / "whole")]) == 0
    command.append(str(out))
    with monkeypatch.context() as interrupted:
        interrupted.setattr("photochrom.engine.colorization.batch.colorize", interrupt_second)
        assert main(command) == 130
    assert "what is finished is kept, and the same command continues from there" in capsys.readouterr().err
    finished = {path: path.stat().st_mtime_ns for path in out.glob("*.jpg")}
    assert 0 < len(finished) < 20
    assert {path.name for path in out.iterdir()} == {".made-by.json", *(path.name for path in finished)}  # nothing half
    for path in finished:
        Image.open(path).load()
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    for path in (tmp_path / "whole").glob("*.jpg"):
        assert (out / path.name).read_bytes() == path.read_bytes()  # whatever was colorized beside it


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere", "PHOTOS"], "there is no checkpoint at nowhere"),
        (["RUN", "nowhere.jpg"], "there is no file or folder nowhere.jpg"),
        (["RUN", "EMPTY"], "there are no images or videos in "),
    ],
)
def test_invalid_inputs_fail_before_anything_is_written(
    trained: Path, photos: Path, tmp_path: Path, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"RUN": str(trained), "PHOTOS": str(photos), "EMPTY": str(tmp_path / "empty")}
    command = ["colorize", "--model", *(places.get(word, word) for word in arguments), "--out", str(tmp_path / "out")]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--size", "1"], "--size 1 is not between 8"),
        (["--size", "large"], "--size=large: it should be a valid integer"),
        (["--batch-size", "0"], "--batch-size 0 is not a positive number"),
    ],
)
def test_bad_usage(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["colorize", "--model", "run", "photo.jpg", "--out", "out", *arguments])
    assert sentence in capsys.readouterr().err


def test_the_native_size(trained: Path, photos: Path, tmp_path: Path) -> None:
    for size in ("native", "32"):
        command = ["colorize", "--model", str(trained), str(photos / "rocket.jpg"), "--out", str(tmp_path / size)]
        assert main([*command, "--size", size]) == 0
    native, small = (np.asarray(Image.open(tmp_path / size / "rocket.jpg")) for size in ("native", "32"))
    assert native.shape == small.shape
    assert not np.array_equal(native, small)


def test_a_failure_before_the_first_result_leaves_no_folder(
    trained: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB. More")

    monkeypatch.setattr("photochrom.engine.colorization.batch.colorize", full)
    command = ["colorize", "--model", str(trained), str(photos / "coffee.png"), "--out", str(tmp_path / "out")]
    assert main(command) == 1
    assert capsys.readouterr().err == (
        f"photochrom colorize: none of the 1 files can be colorized: {photos / 'coffee.png'}: not enough memory: lower "
        "--size or use --device cpu\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        torch.OutOfMemoryError("out of memory"),
    ],
)
def test_an_image_that_lacks_memory_is_listed_and_the_others_colorized(
    trained: Path, photos: Path, tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The large image never fits; the others only alone, since it takes the memory that they need."""
    tried: list[tuple[int, ...]] = []

    def colorize_small(model: Colorizer, images: list[np.ndarray], **options: Any) -> list[ColorizedImage]:
        tried.append(images[0].shape)
        if images[0].shape[0] > 1000 or tried.count(images[0].shape) == 1:
            raise error
        return colorize(model, images, **options)

    monkeypatch.setattr("photochrom.engine.colorization.batch.colorize", colorize_small)
    (tmp_path / "in").mkdir()
    Image.new("L", (1100, 1100)).save(tmp_path / "in" / "large.png")
    for side in (50, 60, 70):
        Image.new("L", (side, side), 90).save(tmp_path / "in" / f"{side}.png")
    assert main(["colorize", "--model", str(trained), str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 1
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [Path(file["output"]).name for file in sorted(summary["files"], key=lambda file: file["path"])] == [
        "50.png",
        "60.png",
        "70.png",
    ]
    assert [Path(failure["path"]).name for failure in summary["failed"]] == ["large.png"]
    assert summary["failed"][0]["reason"].startswith("not enough memory: lower --size")


@pytest.mark.slow
def test_images_beyond_the_memory_of_the_process(trained: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.open(photos / "coffee.png").resize((6000, 4000)).save(tmp_path / "in" / "large.jpg")
    shutil.copy(photos / "rocket.jpg", tmp_path / "in" / "rocket.jpg")
    command = [sys.executable, "-m", "photochrom", "colorize", "--model", str(trained), "in", "--out", "out"]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -v 1600000; exec "$@"', "bash", *command, "--size", "native"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "not colorized: in/large.jpg: not enough memory: lower --size\n" in done.stderr
    assert "1 colorized, 1 failed\n" in done.stdout
    assert (tmp_path / "out" / "rocket.jpg").exists()


def test_a_full_disk_is_reported_in_one_sentence(
    trained: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("photochrom.engine.colorization.batch.write_image", full)
    assert main(["colorize", "--model", str(trained), str(photos), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.strip() == "photochrom colorize: [Errno 28] No space left on device"


def retrain(model: Path, target: Path) -> Path:
    """Writes another model: the same, but for one weight."""
    tensors, metadata = read_tensors(model_file(model)), read_metadata(model_file(model))
    next(iter(tensors.values())).view(-1)[0] += 1
    save_model(tensors, metadata, target)
    return target


@pytest.fixture
def colorize_with(photos: Path, tmp_path: Path) -> Callable[..., int]:
    """Colorizes coffee.png, which is named twice, and other files into tmp_path / "out"."""
    coffee = str(photos / "coffee.png")

    def run(model: Path, *options: str) -> int:
        return main(["colorize", "--model", str(model), coffee, coffee, *options, "--out", str(tmp_path / "out")])

    return run


def test_an_image_that_cannot_be_encoded_is_listed(
    trained: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> bytes:
        raise OSError("broken data stream when writing image file")  # as Pillow says where libjpeg lacks memory

    monkeypatch.setitem(write_image._ENCODERS, "JPEG", fail)
    command = ["colorize", "--model", str(trained), str(photos / "rocket.jpg"), str(photos / "coffee.png")]
    assert main([*command, "--out", str(tmp_path / "out")]) == 1
    assert f"{photos / 'rocket.jpg'}: cannot be encoded: broken data stream" in capsys.readouterr().err
    assert (tmp_path / "out" / "coffee.png").exists()


def test_results_of_other_options_are_not_kept(
    trained: Path, tmp_path: Path, colorize_with: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert colorize_with(trained, "--size", "32") == 0
    assert colorize_with(trained, "--size", "48") == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "were made by another model or at another size (" in error
    assert " at size 32; now " in error
    assert " at size 48): --overwrite makes them again" in error
    assert colorize_with(trained, "--size", "32") == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["num_kept"] == 1
    assert colorize_with(trained, "--size", "48", "--overwrite") == 0
    assert colorize_with(trained, "--size", "48") == 0


def test_results_of_a_model_that_was_trained_again_are_not_kept(
    trained: Path, photos: Path, tmp_path: Path, colorize_with: Callable[..., int]
) -> None:
    model = Path(shutil.copy(model_file(trained), tmp_path / "model.safetensors"))
    rocket = str(photos / "rocket.jpg")
    assert colorize_with(model) == 0
    assert colorize_with(Path(shutil.copy(model, tmp_path / "moved.safetensors"))) == 0  # it is the same
    retrain(model, model)
    assert colorize_with(model) == 1
    assert main(["colorize", "--model", str(model), rocket, "--out", str(tmp_path / "out")]) == 0  # keeps nothing
    assert colorize_with(model) == 1  # coffee.png is still by the model before
    assert main(["colorize", "--model", str(model), rocket, "--out", str(tmp_path / "out"), "--overwrite"]) == 0
    assert colorize_with(model) == 1
    assert colorize_with(model, "--overwrite") == 0
    assert colorize_with(model, rocket) == 1  # rocket.jpg may be by either
    assert colorize_with(model, rocket, "--overwrite") == 0
    assert colorize_with(model, rocket) == 0


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_interrupted_run_is_not_continued_by_another_model(
    trained: Path,
    photos: Path,
    tmp_path: Path,
    overwrite: bool,
    colorize_with: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = retrain(trained, tmp_path / "other.safetensors")
    rocket = str(photos / "rocket.jpg")
    if overwrite:
        assert colorize_with(trained, rocket) == 0

    def interrupt(task: Any, image: Any, colorized: ColorizedImage) -> Any:
        if task.source.name == "rocket.jpg":
            wait_until((tmp_path / "out" / "coffee.png").exists)
            raise KeyboardInterrupt
        return write(task, image, colorized)

    write = batch._write
    with monkeypatch.context() as interrupted:
        interrupted.setattr(batch, "_write", interrupt)
        assert colorize_with(other if overwrite else trained, rocket, *["--overwrite"] * overwrite) == 130
    assert colorize_with(other, rocket) == 1  # rocket.jpg, if there is one, is by the first
    assert colorize_with(other, rocket, "--overwrite") == 0
    assert colorize_with(other, rocket) == 0


def test_a_run_that_made_nothing_leaves_no_mark(
    trained: Path, tmp_path: Path, colorize_with: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = retrain(trained, tmp_path / "other.safetensors")
    (tmp_path / "out").mkdir()
    with monkeypatch.context() as killed:
        killed.setattr(Path, "unlink", lambda *_, **__: None)  # as if it had been killed
        killed.setattr(batch, "_write", raising(KeyboardInterrupt))
        assert colorize_with(trained) == 130
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".made-by.json"]
    assert colorize_with(other) == 0
    assert colorize_with(other) == 0


def raising(error: type[BaseException]) -> Callable[..., Any]:
    def fail(*_: object) -> None:
        raise error

    return fail


def test_the_account_adds_up(trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    shutil.copy(photos / "coffee.png", tmp_path / "in" / "coffee")
    for name in ("a.txt", "b.txt", ".hidden.jpg", "broken.jpg", "old.psd"):
        (tmp_path / "in" / name).write_text("nothing")
    (tmp_path / "in" / "sub" / "loop").symlink_to(tmp_path / "in")
    command = ["colorize", "--model", str(trained), str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert main(command) == 1
    reasons = "2 unknown ending .txt, 1 hidden, 1 folder reached before"
    assert f"  7 files seen: 1 colorized, 2 failed, 4 not taken ({reasons})\n" in capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {Path(other["path"]).name: other["reason"] for other in summary["not_taken"]} == {
        "a.txt": "unknown ending .txt",
        "b.txt": "unknown ending .txt",
        ".hidden.jpg": "hidden",
        "loop": f"folder reached before: as {tmp_path / 'in'}",
    }
    assert (tmp_path / "out" / "coffee.png").exists()
