import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from photochrom.engine.cli import main
from photochrom.engine.colorize import colorize, plan
from photochrom.models import Colorizer, ColorPrediction
from PIL import Image
from skimage.color import rgb2lab


class Painter(Colorizer):
    """Paints everything in one colour, and remembers what it saw."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.colour = torch.tensor([float(a), float(b)]).view(1, 2, 1, 1)

    def forward(self, L: torch.Tensor) -> ColorPrediction:
        self.seen = L
        ab = self.colour.expand(1, 2, -(-L.shape[2] // 4), -(-L.shape[3] // 4))
        return ColorPrediction(output=ab, input_size=(L.shape[2], L.shape[3]))


def painted(path: Path, a: float, b: float, size: int = 64) -> tuple[np.ndarray, np.ndarray, Painter]:
    """Lab before and after."""
    original = Image.open(path).convert("RGB")
    painter = Painter(a, b)
    result = colorize(painter, original, size=size, device=torch.device("cpu"))
    assert result.size == original.size
    return rgb2lab(np.asarray(original)), rgb2lab(np.asarray(result)), painter


def test_lightness_is_kept_at_full_resolution_and_colour_is_the_model_s(photos: Path) -> None:
    before, after, _ = painted(photos / "coffee.png", 5, -5)
    middle = (before[..., 0] > 20) & (before[..., 0] < 90)
    assert np.abs(after[middle][:, 0] - before[middle][:, 0]).max() < 0.5  # 8-bit steps
    assert np.abs(after[middle][:, 1:] - (5, -5)).max() < 1.5


def test_colours_that_do_not_exist_cost_chroma_not_lightness(photos: Path) -> None:
    before, after, _ = painted(photos / "coffee.png", 90, 90)
    assert np.abs(after[..., 0] - before[..., 0]).max() < 1


@pytest.mark.parametrize(("size", "seen"), [(64, (64, 96)), (400, (400, 600)), (1000, (400, 600))])
def test_the_network_sees_a_small_copy_never_an_enlarged_one(photos: Path, size: int, seen: tuple[int, int]) -> None:
    *_, painter = painted(photos / "coffee.png", 0, 0, size=size)
    assert painter.seen.shape == (1, 1, *seen)


def test_files_and_folders(trained: Path, photos: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(photos, tmp_path / "in"))
    (source / "notes.txt").write_text("no photograph")
    Image.open(photos / "coffee.png").convert("L").save(source / "old.tif")
    out = tmp_path / "out"
    assert main(["colorize", str(trained), str(source), "--out", str(out)]) == 0
    made = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    expected = {path.relative_to(photos).as_posix() for path in photos.rglob("*.*")} | {"old.tif.png"}
    assert made == expected | {"summary.json", "config.yaml"}
    for path in photos.rglob("*.*"):
        colored, original = Image.open(out / path.relative_to(photos)), Image.open(path)
        assert colored.size == original.size
        assert colored.mode == "RGB"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["num_done"] == 10
    assert summary["num_failed"] == 0


def test_what_cannot_be_read_is_listed_and_the_rest_is_done(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.jpg"
    cut.write_bytes((photos / "rocket.jpg").read_bytes()[:-500])
    command = [
        "colorize",
        str(trained),
        f"{tmp_path}/./cut.jpg",
        str(photos / "rocket.jpg"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(command) == 1
    assert f"not colorized: {cut}: damaged JPEG" in capsys.readouterr().err
    assert (tmp_path / "out" / "rocket.jpg").exists()
    assert not (tmp_path / "out" / "cut.jpg").exists()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["num_failed"] == 1
    assert summary["failed"][0]["path"] == str(cut)


def test_names_of_every_length(trained: Path, photos: Path, tmp_path: Path) -> None:
    """255 bytes is what file systems allow; .png at the end of another suffix can be too much."""
    source = tmp_path / "in"
    source.mkdir()
    shutil.copy(photos / "rocket.jpg", source / f"{'a' * 251}.jpg")
    Image.open(photos / "coffee.png").save(source / f"{'b' * 251}.tif", "TIFF")
    Image.open(photos / "coffee.png").save(source / "c.tif")
    assert main(["colorize", str(trained), str(source), "--out", str(tmp_path / "out")]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["num_done"], summary["num_failed"]) == (2, 1)
    assert "too long" in summary["failed"][0]["reason"]


def test_what_a_folder_holds_besides_is_no_failure(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    shutil.copy(photos / "rocket.jpg", source)
    (source / "empty.jpg").touch()
    assert main(["colorize", str(trained), str(source), "--out", str(tmp_path / "out")]) == 0
    assert f"not colorized: {source / 'empty.jpg'}: empty file" in capsys.readouterr().err
    (source / "rocket.jpg").unlink()
    assert main(["colorize", str(trained), str(source), "--out", str(tmp_path / "none")]) == 1
    assert "none of the 1 files can be colorized: " in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere", "PHOTOS"], "there is no checkpoint at nowhere"),
        (["RUN", "nowhere.jpg"], "there is no photograph or folder nowhere.jpg"),
        (["RUN", "EMPTY"], "holds no photographs"),
        (["RUN", "PHOTOS", "PHOTOS"], "would both become"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    trained: Path, photos: Path, tmp_path: Path, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"RUN": str(trained), "PHOTOS": str(photos), "EMPTY": str(tmp_path / "empty")}
    command = ["colorize", *(places.get(word, word) for word in arguments), "--out", str(tmp_path / "out")]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_jpegs_and_pngs_keep_their_names_and_all_else_becomes_png(tmp_path: Path) -> None:
    for name in ("a.JPG", "a.jpeg", "a.jpg", "a.png", "a.webp", "a.tif", "a.eps", "a.txt"):
        (tmp_path / name).touch()
    jobs = plan([tmp_path], Path("out"))
    assert [target.name for _, target in jobs] == ["a.JPG", "a.jpeg", "a.jpg", "a.png", "a.tif.png", "a.webp.png"]


def test_strips_leave_no_seams(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Image.open(photos / "coffee.png").convert("RGB")
    whole = colorize(Painter(60, 20), original, size=64, device=torch.device("cpu"))
    monkeypatch.setattr("photochrom.engine.colorize._ROWS", 7)
    strips = colorize(Painter(60, 20), original, size=64, device=torch.device("cpu"))
    assert np.array_equal(np.asarray(strips), np.asarray(whole))


def test_a_failure_before_the_first_picture_leaves_no_folder(
    trained: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB. More")

    monkeypatch.setattr("photochrom.engine.colorize.colorize", full)
    assert main(["colorize", str(trained), str(photos), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.strip() == (
        "photochrom colorize: the GPU's memory is full (CUDA out of memory): lower --size, or use --device cpu"
    )
    assert not (tmp_path / "out").exists()
