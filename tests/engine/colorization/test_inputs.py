import io
import os
import random
import sys
from pathlib import Path

import pytest
from photochrom.engine.colorization.inputs import ColorizePlan, make_plan
from PIL import Image


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


def plan_list(data: bytes, monkeypatch: pytest.MonkeyPatch) -> ColorizePlan:
    """Plans what a list on stdin names."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    return make_plan(["-"], Path("out"))


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
    planned = plan_list(listed, monkeypatch)
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
    with pytest.raises(ValueError, match="one of the inputs is empty"):
        make_plan([""], Path("out"))  # an empty variable of a shell, not the current folder
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
    listed = b"../album/a.JPG\n../album/1900/../1900/a.jpg\n"
    assert targets(plan_list(listed, monkeypatch)) == ["1900/a.jpg", "a.JPG"]
    with pytest.raises(ValueError, match=r"has \.\. after a wildcard"):
        make_plan(["../album/*/../a.JPG"], Path("out"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lists_in_every_encoding(album: Path, end: str, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("album/Großmutter.jpg").touch()
    listed = end.join(["album/a.JPG", "album/Großmutter.jpg", ""])
    assert targets(plan_list(listed.encode(encoding), monkeypatch)) == ["Großmutter.jpg", "a.JPG"]


def test_names_of_any_bytes_in_lists(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [b"album/\xff.jpg", b"album/two\nlines.jpg", b"album/a\x0cb\xc2\x85.jpg", b"album/-x.jpg", b"album/c:d.jpg"]
    for name in names:
        Path(os.fsdecode(name)).touch()
    expected = sorted(os.fsdecode(name.removeprefix(b"album/")) for name in names)
    assert targets(plan_list(b"\0".join(names), monkeypatch)) == expected
    lines = [name for name in names if b"\n" not in name]
    assert len(plan_list(b"\n".join(lines), monkeypatch).tasks) == len(lines)


@pytest.mark.parametrize(
    "data",
    [
        "/照片/a.jpg\n./b.jpg\n".encode("utf-16-le"),  # no mark, and not every second byte is NUL
        "照片/a.jpg".encode("utf-16-be"),
        b"album/a.JPG\0\0album/1900\0",
        b"album/a.JPG\0.\0",
        b"\xff\xd8\xff\xe0\0\x10JFIF\0\1",  # a photograph instead of a list
        b"\0",
    ],
)
def test_no_folder_is_taken_from_a_list_that_is_not_text(
    album: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"^the list on stdin .*save it as UTF-8"):
        plan_list(data, monkeypatch)


def test_what_find_lists_of_the_current_folder(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert targets(plan_list(b".\0./album\0./album/a.JPG\0", monkeypatch))
    Path("x").touch()
    assert len(plan_list(b"./x\0album/a.JPG\0", monkeypatch).tasks) == 2


def test_a_model_in_a_list_is_refused(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("small.safetensors").touch()
    with pytest.raises(ValueError, match=r"^small\.safetensors is a model, not photographs: name it with --model "):
        plan_list(b"album/a.JPG\nsmall.safetensors\n", monkeypatch)


def test_linked_folders_are_followed(album: Path) -> None:
    Path("elsewhere/deep").mkdir(parents=True)
    Path("elsewhere/deep/x.jpg").touch()
    Path("album/linked").symlink_to("../elsewhere")
    Path("album/again").symlink_to("linked/deep")  # to what linked holds: it has one name
    Path("album/loop").symlink_to("../album")
    Path("album/1800").symlink_to("1900")  # before the folder itself, which keeps its own name
    planned = make_plan(["album"], Path("out"))
    assert targets(planned) == ["1900/a.jpg", "1900/c.tif", "1900/clip.AVI.mkv", "a.JPG", "again/x.jpg"]
    reached_before = {str(path): reason for path, reason in planned.not_taken if "reached before" in reason}
    assert reached_before == {
        "album/1800": "folder reached before: as album/1900",
        "album/loop": "folder reached before: as album",
        "album/linked/deep": "folder reached before: as album/again",
    }


def test_patterns_follow_links_once(album: Path) -> None:
    Path("album/loop").symlink_to("../album")
    assert targets(make_plan(["album/**/*.[jt]*"], Path("out"))) == ["1900/a.jpg", "1900/c.tif"]


def test_folders_that_look_like_patterns(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("[1999]/a.jpg", "[1999]/b*.jpg", "9/no.jpg"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    assert targets(make_plan(["[1999]/a*"], Path("out"))) == ["a.jpg"]
    assert targets(make_plan(["[1999]/b*.jpg"], Path("out"))) == ["b*.jpg"]
    assert targets(make_plan(["[1999]"], Path("out"))) == ["a.jpg", "b*.jpg"]
    Path("~").mkdir()
    Path("~/own.jpg").touch()
    assert targets(make_plan(["~/own.jpg"], Path("out"))) == ["own.jpg"]
    monkeypatch.setenv("HOME", str(Path("album").absolute()))
    assert targets(make_plan(["~/a.JPG"], Path("out"))) == ["a.JPG"]
    assert targets(make_plan(["~/19*/a.jpg"], Path("out"))) == ["1900/a.jpg"]


def test_results_are_not_inputs_of_patterns_and_lists(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("out").mkdir()
    Path("out/a.jpg").touch()
    assert targets(make_plan(["**/*.[jt]*"], Path("out"))) == ["album/1900/a.jpg", "album/1900/c.tif"]
    assert targets(plan_list(b"./out/a.jpg\0./album/1900/a.jpg\0./out\0./album/a.JPG\0", monkeypatch)) == [
        "album/1900/a.jpg",
        "album/a.JPG",
    ]
    assert len(make_plan(["album/*/*.jpg"], Path()).tasks) == 1  # into a folder above them


@pytest.mark.parametrize(
    ("name", "format_name"),
    [("a.jfif", "JPEG"), ("a.jpe", "JPEG"), ("a.tga", "TGA"), ("a.pgm", "PPM"), ("a.j2k", "JPEG2000"), ("a", "PNG")],
)
def test_less_usual_endings_in_folders_are_taken(album: Path, name: str, format_name: str) -> None:
    Image.new("L", (8, 8)).save(Path("album/1900", name), format_name)
    assert name in [task.source.name for task in make_plan(["album/1900"], Path("out")).tasks]


def test_files_without_ending_are_images_by_their_content(album: Path) -> None:
    Path("album/README").write_text("P1 is no picture")
    Path("album/empty").touch()
    os.mkfifo("album/pipe")  # reading it would wait for ever
    assert {path.name: reason for path, reason in make_plan(["album"], Path("out")).not_taken} == {
        **dict.fromkeys(["README", "empty", "pipe"], "no ending, and no image by its content"),
        **dict.fromkeys([".hidden.jpg", ".trash"], "hidden"),
        "b.txt": "unknown ending .txt",
    }


def test_names_that_are_too_long_or_taken(album: Path) -> None:
    Path("out").mkdir()
    Path(f"{'b' * 251}.gif").touch()
    assert len(make_plan([f"{'b' * 251}.gif"], Path("out")).tasks) == 1  # with .png, no file can have that name
    with pytest.raises(ValueError, match="there is no file or folder ccc"):
        make_plan(["c" * 300], Path("out"))


@pytest.mark.parametrize("seed", range(20))
def test_every_file_is_in_one_list(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees of random names, links and loops: every file is in one list, once, or in a folder that is there hidden."""
    monkeypatch.chdir(tmp_path)
    draw = random.Random(seed)
    folders = [Path("top")]
    for _ in range(12):
        folders.append(draw.choice(folders) / draw.choice(["a", "b", ".h", "[c]", "d e", "\udcff"]))
        folders[-1].mkdir(parents=True, exist_ok=True)
    for _ in range(40):
        name = draw.choice(["x", "y", ".z", "*"]) + draw.choice([".jpg", ".TIF", ".mp4", ".heic", ".txt", "", ".a.b"])
        (draw.choice(folders) / name).touch()
    for number in range(6):
        link = draw.choice(folders) / f"link{number}"
        link.symlink_to(draw.choice(folders).absolute(), target_is_directory=True)
    files = {os.path.realpath(Path(root, name)) for root, _, names in os.walk("top") for name in names}
    planned = make_plan(["top"], Path("top/out"))
    listed = [*(task.source for task in planned.tasks), *(path for path, _ in planned.unreadable + planned.not_taken)]
    listed_files = [os.path.realpath(path) for path in listed if path.is_file()]
    assert len(listed_files) == len(set(listed_files))
    hidden = [path.resolve() for path in listed if path.is_dir() and path.name.startswith(".")]
    left_out = [Path(file) for file in files.difference(listed_files)]
    assert all(any(path.is_relative_to(folder) for folder in hidden) for path in left_out)
