import errno
import logging
import os
from pathlib import Path

import pytest
from photochrom.pipelines import files
from photochrom.pipelines.files import atomic_write, sync


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
