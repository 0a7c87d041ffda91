import io
import os
import sys
from pathlib import Path

import pytest
from photochrom.engine.colorization.inputs import Plan, plan


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty files in folders, next to the current folder's out."""
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


def targets(made: Plan) -> list[str]:
    return sorted(job.target.relative_to("out").as_posix() for job in made.jobs)


def test_a_folder_is_mirrored_without_what_is_hidden_or_no_picture(album: Path) -> None:
    made = plan(["album"], Path("out"))
    assert targets(made) == ["1900/a.jpg", "1900/c.tif", "1900/clip.AVI.mkv", "a.JPG"]
    assert [job.source.name for job in made.jobs if job.is_video] == ["clip.AVI"]
    assert [path.name for path, _ in made.unread] == ["e.heic"]  # a picture, which is not passed over in silence


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
        ("summary.json", "summary.json.png"),  # if that is what it is told to colorize
    ],
)
def test_what_keeps_its_name(album: Path, name: str, target: str) -> None:
    Path(name).touch()
    assert targets(plan([name], Path("out"))) == [target]


def test_patterns_that_no_shell_has_expanded(album: Path) -> None:
    assert targets(plan(["album/**/*.[jt]*"], Path("out"))) == ["1900/a.jpg", "1900/c.tif"]
    assert targets(plan(["album/*/a.jpg"], Path("out"))) == ["1900/a.jpg"]
    Path("odd[1].jpg").touch()
    assert targets(plan(["odd[1].jpg"], Path("out"))) == ["odd[1].jpg"]  # the file of that name, where there is one
    with pytest.raises(ValueError, match=r"no photograph matches album/\*\.gif"):
        plan(["album/*.gif"], Path("out"))


@pytest.mark.parametrize("end", ["\n", "\0"])
def test_a_list_on_stdin(album: Path, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = end.join(["album/1900/a.jpg", "album/a.JPG", "album/gone.jpg", ""]).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(listed)))
    made = plan(["-"], Path("out"))
    assert targets(made) == ["1900/a.jpg", "a.JPG"]  # from the folder that all of them are in
    assert made.unread == [(Path("album/gone.jpg"), "there is no such file")]


def test_what_is_there_is_kept_unless_it_is_to_be_written_over(album: Path) -> None:
    Path("out").mkdir()
    Path("out/a.JPG").touch()
    made = plan(["album/a.JPG", "album/1900/c.tif"], Path("out"))
    assert targets(made) == ["c.tif"]
    assert [job.target for job in made.kept] == [Path("out/a.JPG")]
    assert targets(plan(["album/a.JPG"], Path("out"), overwrite=True)) == ["a.JPG"]


def test_results_within_the_folder_are_no_inputs(album: Path) -> None:
    (album / "done").mkdir()
    (album / "done" / "a.jpg").touch()
    made = plan(["album"], album / "done")
    assert not [job.source for job in made.jobs if "done" in job.source.parts]


@pytest.mark.parametrize("out", ["album", "album/1900/..", "link"])
def test_originals_are_not_written_over(album: Path, out: str) -> None:
    Path("link").symlink_to("album")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="is an original, and would be written over: name another folder"):
            plan(["album"], Path(out), overwrite=overwrite)


def test_two_for_one_output_are_refused(album: Path) -> None:
    Path("copy").mkdir()
    Path("copy/a.JPG").touch()
    with pytest.raises(ValueError, match="would both become"):
        plan(["album/a.JPG", "copy/a.JPG"], Path("out"))
    assert targets(plan(["album/1900/a.jpg", "album/1900/"], Path("out"))) == ["a.jpg", "c.tif", "clip.AVI.mkv"]


def test_what_is_not_there_is_said_before_anything_is_done(album: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no photograph or folder nowhere\.jpg"):
        plan(["album", "nowhere.jpg"], Path("out"))
    Path("empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no photographs"):
        plan(["empty"], Path("out"))


def test_a_folder_that_cannot_be_read_is_named(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def deny(path: str) -> object:
        if str(path).endswith("1900"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", deny)
    made = plan(["album"], Path("out"))
    assert (Path("album/1900"), "unreadable: Permission denied") in made.unread
    assert targets(made) == ["a.JPG"]


def test_no_list_leads_out_of_the_output(album: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"../album/a.JPG\n../album/1900/../1900/a.jpg\n")))
    assert targets(plan(["-"], Path("out"))) == ["1900/a.jpg", "a.JPG"]
    with pytest.raises(ValueError, match="goes up again behind its first"):
        plan(["../album/*/../a.JPG"], Path("out"))
