import errno
import logging
import os
import stat
from pathlib import Path

import pytest
from photochrom.pipelines import files
from photochrom.pipelines.files import atomic_write, bounded_name, sync


@pytest.fixture(autouse=True)
def _says_again() -> None:
    files._say_not_durable.cache_clear()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS])
def test_file_systems_that_cannot_sync(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with caplog.at_level(logging.DEBUG):
        for text in ("old", "new"):
            with atomic_write(tmp_path / "file") as temporary:
                temporary.write_text(text)
    assert (tmp_path / "file").read_text() == "new"
    assert [record.levelname for record in caplog.records] == ["DEBUG"]


def test_folders_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files can be made in a folder without the right to list it; root can list any, so the system's answer is ours."""

    def refuse(path: Path, flags: int) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    sync(tmp_path)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_data_that_is_lost_is_an_error(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=os.strerror(number)), atomic_write(tmp_path / "file") as temporary:
        temporary.write_text("text")
    assert list(tmp_path.iterdir()) == []


def test_a_file_has_the_mode_of_the_umask_whatever_a_library_sets(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    before = os.umask(0o027)
    try:
        for leftover in (False, True):  # of a process that was killed
            with atomic_write(path) as file:
                file.write_bytes(b"1")
                file.chmod(0o600)
                temporary = file
            assert stat.S_IMODE(path.stat().st_mode) == 0o640, leftover
            temporary.touch(0o600)
    finally:
        os.umask(before)


def test_errors_name_the_file_that_was_asked_for(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")  # as write() raises it
    match = r"No space left on device: '.*/report.html'$"
    with pytest.raises(OSError, match=match), atomic_write(tmp_path / "report.html"):
        raise full
    with pytest.raises(OSError, match=r"'.*/nowhere/report.html'$"), atomic_write(tmp_path / "nowhere" / "report.html"):
        pass
    with pytest.raises(OSError, match=r"'source\.jpg'"), atomic_write(tmp_path / "copy.jpg"):
        raise OSError(errno.EIO, "Input/output error", "source.jpg")


def test_long_names_are_cut_between_characters() -> None:
    assert bounded_name("short") == "short"
    assert bounded_name("a" + 200 * "\u00e4") == "a" + 49 * "\u00e4"
