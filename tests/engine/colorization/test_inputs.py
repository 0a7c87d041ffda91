import io
import os
import sys
from pathlib import Path

import pytest
from photochrom.engine.colorization.inputs import ColorizePlan, make_plan


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of empty files in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "a.JPG",
        "b.txt",
        ".hidden.jpg",
        "1900/a.jpg",
        "1900/c.tif",
        "1900/clip.AVI",
        ".trash/d.jpg",
        "e.heic",
    ):
        (tmp_path / "album" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "album" / name).touch()
    return Path("album")


def targets(planned: ColorizePlan) -> list[str]:
    return sorted(task.target.relative_to("out").as_posix() for task in planned.tasks)


def test_a_folder_is_mirrored_without_hidden_and_other_files(album: Path) -> None:
    planned = make_plan(["album"], Path("out"))
    assert targets(planned) == ["1900/a.jpg", "1900/c.tif", "1900/clip.AVI.mkv", "a.JPG"]
    assert [task.source.name for task in planned.tasks if task.is_video] == ["clip.AVI"]
    assert [path.name for path, _ in planned.unreadable] == ["e.heic"]  # an image, so it is not skipped silently


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("a.JPG", "a.JPG"),
        ("a.jpeg", "a.jpeg"),
        ("a.png", "a.png"),
        ("a.webp", "a.webp"),
        ("a.tiff", "a.tiff"),
        ("a.gif", "a.gif.png"),
        ("a.bmp", "a.bmp.png"),
        ("a.mov", "a.mov"),
        ("a.webm", "a.webm"),
        ("a.mpg", "a.mpg.mkv"),
        ("summary.json", "summary.json.png"),  # a file named as input is always colorized
    ],
)
def test_target_names(album: Path, name: str, target: str) -> None:
    Path(name).touch()
    assert targets(make_plan([name], Path("out"))) == [target]


def test_patterns(album: Path) -> None:
    assert targets(make_plan(["album/**/*.[jt]*"], Path("out"))) == ["1900/a.jpg", "1900/c.tif"]
    assert targets(make_plan(["album/*/a.jpg"], Path("out"))) == ["1900/a.jpg"]
    Path("odd[1].jpg").touch()
    assert targets(make_plan(["odd[1].jpg"], Path("out"))) == ["odd[1].jpg"]  # an existing file is not a pattern
    with pytest.raises(ValueError, match=r"no image or video matches album/\*\.gif"):
        make_plan(["album/*.gif"], Path("out"))


@pytest.mark.parametrize("end", ["\n", "\0"])
def test_a_list_on_stdin(album: Path, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = end.join(["album/1900/a.jpg", "album/a.JPG", "album/gone.jpg", ""]).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(listed)))
    planned = make_plan(["-"], Path("out"))
    assert targets(planned) == ["1900/a.jpg", "a.JPG"]  # from the folder that all of them are in
    assert planned.unreadable == [(Path("album/gone.jpg"), "file not found")]


def test_existing_targets_are_kept_unless_overwritten(album: Path) -> None:
    Path("out").mkdir()
    Path("out/a.JPG").touch()
    planned = make_plan(["album/a.JPG", "album/1900/c.tif"], Path("out"))
    assert targets(planned) == ["c.tif"]
    assert [task.target for task in planned.kept] == [Path("out/a.JPG")]
    assert targets(make_plan(["album/a.JPG"], Path("out"), overwrite=True)) == ["a.JPG"]


def test_results_within_the_folder_are_not_inputs(album: Path) -> None:
    (album / "done").mkdir()
    (album / "done" / "a.jpg").touch()
    planned = make_plan(["album"], album / "done")
    assert not [task.source for task in planned.tasks if "done" in task.source.parts]


@pytest.mark.parametrize("out", ["album", "album/1900/..", "link"])
def test_originals_are_not_overwritten(album: Path, out: str) -> None:
    Path("link").symlink_to("album")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="is an original and would be overwritten: name another folder"):
            make_plan(["album"], Path(out), overwrite=overwrite)


def test_two_inputs_for_one_target_are_refused(album: Path) -> None:
    Path("copy").mkdir()
    Path("copy/a.JPG").touch()
    with pytest.raises(ValueError, match="would both become"):
        make_plan(["album/a.JPG", "copy/a.JPG"], Path("out"))
    assert targets(make_plan(["album/1900/a.jpg", "album/1900/"], Path("out"))) == ["a.jpg", "c.tif", "clip.AVI.mkv"]


def test_missing_inputs_are_refused(album: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no file or folder nowhere\.jpg"):
        make_plan(["album", "nowhere.jpg"], Path("out"))
    Path("empty").mkdir()
    with pytest.raises(ValueError, match="there are no images or videos in empty"):
        make_plan(["empty"], Path("out"))


@pytest.mark.parametrize(
    ("model", "file"),
    [
        ("run", "run/model.safetensors"),
        ("run", "run/checkpoints/step-00000500/model.safetensors"),
        ("run/checkpoints/step-00000500", "run/checkpoints/step-00000500/model.safetensors"),
        ("small.safetensors", "small.safetensors"),
    ],
)
def test_a_model_among_the_inputs_is_refused(album: Path, model: str, file: str) -> None:
    Path("run/previews").mkdir(parents=True)
    Path("run/previews/step-00000500.jpg").touch()
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).touch()
    with pytest.raises(ValueError, match=rf"^{model} is a model, not photographs: name it with --model {model}$"):
        make_plan([model, "album/a.JPG"], Path("out"))
    assert targets(make_plan(["run/previews"], Path("out"))) == ["step-00000500.jpg"]


def test_a_folder_that_cannot_be_read_is_named(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def deny(path: str) -> object:
        if str(path).endswith("1900"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", deny)
    planned = make_plan(["album"], Path("out"))
    assert (Path("album/1900"), "unreadable: Permission denied") in planned.unreadable
    assert targets(planned) == ["a.JPG"]


def test_lists_do_not_lead_out_of_the_output(album: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"../album/a.JPG\n../album/1900/../1900/a.jpg\n")))
    assert targets(make_plan(["-"], Path("out"))) == ["1900/a.jpg", "a.JPG"]
    with pytest.raises(ValueError, match=r"has \.\. after a wildcard"):
        make_plan(["../album/*/../a.JPG"], Path("out"))
