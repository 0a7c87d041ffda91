"""Output folders and files: who may write where, and what stays when a command fails."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from photochrom.pipelines.files import exclusive_lock
from photochrom.pipelines.output_dir import (
    check_holds,
    check_output_file,
    claim_output,
    claim_resumable_output,
    differences,
)


def claim(out: Path, identity: dict | None = None, *, resume: bool = True):
    return claim_resumable_output(out, identity or {"seed": 0}, job="pack", work_name=".work", resume=resume)


def fail(claimed: AbstractContextManager, write: Callable[[], object], error: BaseException) -> None:
    """Writes something, and fails."""
    with claimed:
        write()
        raise error


def interrupt(out: Path) -> None:
    """Stops a job after its first results."""
    with pytest.raises(KeyboardInterrupt):
        fail(claim(out), lambda: (out / ".work" / "first").write_text("done"), KeyboardInterrupt())


@pytest.mark.parametrize("is_there", [False, True])
def test_a_failure_before_the_first_file_leaves_what_was_there(tmp_path: Path, is_there: bool) -> None:
    out = tmp_path / "out"
    if is_there:
        out.mkdir()
    with pytest.raises(RuntimeError):
        fail(claim_output(out), (out / "empty").mkdir, RuntimeError())
    assert out.exists() == is_there
    with claim_output(out, lambda out: check_holds(out, "marker", "run")):
        pass  # folders without files count as empty


def test_a_failure_after_the_first_file_keeps_it_and_says_how_to_continue(tmp_path: Path) -> None:
    claimed = claim_output(tmp_path / "out", resume_hint="go on")
    with pytest.raises(KeyboardInterrupt, match="nothing was finished yet, so nothing is kept"):
        fail(claim_output(tmp_path / "out", resume_hint="go on"), lambda: None, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt, match="go on"):
        fail(claimed, (tmp_path / "out" / "file").touch, KeyboardInterrupt())
    assert (tmp_path / "out" / "file").exists()


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    with exclusive_lock(tmp_path), pytest.raises(ValueError, match="another process is writing to"):
        claim_output(tmp_path).__enter__()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, sentence in {
        tmp_path / "file": "file is a file: name a new folder",
        tmp_path / "file" / "below": "cannot write to .*below: Not a directory; name another folder",
        Path("/proc/photochrom"): "cannot write to /proc/photochrom: .*; name another folder",
        Path("/proc"): "cannot write to /proc: .*; name another folder",
    }.items():
        with pytest.raises(ValueError, match=sentence):
            claim_output(path).__enter__()


def test_a_folder_on_an_object_store_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="the output folder s3:/photos/out is no"):
        claim_output(Path("s3://photos/out")).__enter__()
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").touch()
    with pytest.raises(
        ValueError,
        match=r"is not empty \(it holds diary.txt\) and holds no unfinished pack, perhaps a finished one: name a",
    ):
        claim(tmp_path).__enter__()
    check_holds(tmp_path, "diary.txt", "diary")


def test_a_finished_job_leaves_no_working_folder(tmp_path: Path) -> None:
    with claim(tmp_path) as work:
        (work / "half").touch()
        (tmp_path / "result").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_an_interrupted_job_is_continued_by_the_same_one_only(tmp_path: Path) -> None:
    interrupt(tmp_path)
    with pytest.raises(ValueError, match=r"unfinished pack with other settings or files \(seed: 0 -> 1\): set them"):
        claim(tmp_path, {"seed": 1}).__enter__()
    with pytest.raises(ValueError, match="holds an unfinished pack: continue it with --resume, or name a new folder"):
        claim(tmp_path, resume=False).__enter__()
    with claim(tmp_path) as work:
        assert (work / "first").read_text() == "done"
    assert not list(tmp_path.iterdir())


def test_a_job_without_progress_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RuntimeError):
        fail(claim(out), (out / ".work" / "empty").touch, RuntimeError())
    assert not (tmp_path / "out").exists()


def test_a_job_that_was_stopped_at_its_very_end_is_finished(tmp_path: Path) -> None:
    (tmp_path / ".work-finished").mkdir()
    (tmp_path / ".work-finished" / "first").touch()
    with claim(tmp_path) as work:
        assert not (work / "first").exists()
    assert not list(tmp_path.iterdir())


def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "old.png").touch()
    check_output_file(tmp_path / "old.png", ".png", ".svg")
    for path, sentence in {
        tmp_path / "new.txt": "--out .*new.txt does not end in .png or .svg: name such a file",
        tmp_path / "old.png": "--out .*old.png exists: name a new file, or remove it first",
        Path("/proc/new.png"): "cannot write to /proc: .*; name another folder",
    }.items():
        with pytest.raises(ValueError, match=sentence):
            check_output_file(path, ".png", ".svg", new=True)
    with pytest.raises(ValueError, match=r"--out .*b.png is in a folder that does not exist: make .*a first"):
        check_output_file(tmp_path / "a" / "b.png")
    check_output_file(tmp_path / "a" / "b.png", new=True)


def test_differences_are_named_by_their_keys() -> None:
    assert differences({"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 4, "d": 3}, "e": 5}) == [
        "b.c: 2 -> 4",
        "e: None -> 5",
    ]


def test_a_home_that_the_shell_has_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in --out=~/results, which would make a folder named ~."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    for check in (lambda path: claim_output(path).__enter__(), lambda path: check_output_file(path, new=True)):
        with pytest.raises(ValueError, match=r"begins with ~, .*: write /home/me/results, or make a folder ~ first"):
            check(Path("~/results"))
    Path("~").mkdir()
    with claim_output(Path("~/results")):
        assert Path("~/results").is_dir()
