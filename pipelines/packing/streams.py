"""Archives that are read once, from start to end: compressed tars, and whatever lies behind a URL."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, cast
from urllib.parse import urlsplit

from ..address import is_url, without_secrets
from ..imaging.decode import Rejected, check_bytes
from .http import HttpFile
from .members import (
    ARCHIVE_DAMAGE,
    LocalFile,
    SourceFile,
    StrictTarInfo,
    UniquePaths,
    Unreadable,
    check_tar_member,
    check_zip_member,
    read_zip_member,
)

_BUFFER = 1 << 20
UNPACKERS: dict[bytes, Callable[[IO[bytes]], io.BufferedIOBase]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}
ZIP_MAGIC = b"PK\x03\x04"

_MemberContent = Unreadable | Callable[[], bytes]


class Stream(ABC):
    """An archive's files in its own order. `identity` tells archives apart; `total` is its length in bytes."""

    identity: str
    total: int | None

    def __init__(self, source: str) -> None:
        self._source = source

    @property
    @abstractmethod
    def position(self) -> int:
        """Bytes of the archive that have been read."""

    @abstractmethod
    def close(self) -> None:
        """Stops reading."""

    @abstractmethod
    def _members(self) -> Iterator[tuple[str, _MemberContent]]:
        """Yields each file's name, and a function that reads it (to be called before the next file)."""

    def files(self, is_wanted: Callable[[str], bool], folder: Path) -> Generator[SourceFile]:
        """Yields the files whose paths are wanted, each written to `folder`, from where the caller removes it.

        Raises ValueError when the archive is damaged or ends too early.
        """
        paths = UniquePaths(self._source)
        for number, (name, content) in enumerate(self._members()):
            local = LocalFile(folder / str(number), temporary=True)
            file = paths.add(name, content if isinstance(content, Unreadable) else local)
            if not is_wanted(file.path):
                continue
            if file.content is local and not isinstance(content, Unreadable):
                try:
                    with explaining_damage(self._source, self):
                        data = content()
                    local.path.write_bytes(data)
                except Rejected as rejected:
                    file = replace(file, content=Unreadable(rejected.reason, rejected.detail))
            yield file


class TarStream(Stream):
    """A tar, compressed or not."""

    def __init__(self, source: str) -> None:
        super().__init__(source)
        raw: io.RawIOBase
        if is_url(source):
            raw = remote = HttpFile(source)
            self.total, version = remote.total, remote.version
        else:
            raw, status = io.FileIO(source), Path(source).stat()
            self.total, version = status.st_size, str(status.st_mtime_ns)
        self.identity = f"{self.total} bytes, {version}"
        self._file = io.BufferedReader(raw, _BUFFER)
        start = self._file.peek(8)
        unpack = next((unpack for magic, unpack in UNPACKERS.items() if start.startswith(magic)), None)
        self._unpacked = cast(IO[bytes], unpack(self._file) if unpack else self._file)

    @property
    def position(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()

    def _members(self) -> Iterator[tuple[str, _MemberContent]]:
        with explaining_damage(self._source, self):
            archive = tarfile.open(fileobj=self._unpacked, mode="r|", tarinfo=StrictTarInfo)  # noqa: SIM115
        while True:
            with explaining_damage(self._source, self):
                member = archive.next()
            if member is None:
                break
            archive.members = []  # type: ignore[attr-defined]  # tarfile keeps all members that it has seen
            if not member.isdir():
                yield member.name, check_tar_member(member) or partial(_read, archive, member)
        with explaining_damage(self._source, self):  # the checksum comes last
            while self._unpacked.read(_BUFFER):
                pass


class ZipStream(Stream):
    """A zip behind a URL, whose server must serve ranges."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        remote = HttpFile(url, seekable=True)
        self.total = remote.total
        self.identity = f"{remote.total} bytes, {remote.version}"
        self._position = 0
        with explaining_damage(url, None):
            self._archive = zipfile.ZipFile(io.BufferedReader(remote, _BUFFER))

    @property
    def position(self) -> int:
        return self._position

    def close(self) -> None:
        self._archive.close()

    def _members(self) -> Iterator[tuple[str, _MemberContent]]:
        for info in self._archive.infolist():
            self._position = info.header_offset
            if not info.is_dir():
                yield info.filename, check_zip_member(info) or partial(read_zip_member, self._archive, info)


def open_stream(source: str) -> Stream:
    """Opens the archive. Raises ValueError when it cannot be reached."""
    is_zip = is_url(source) and urlsplit(source).path.lower().endswith(".zip")
    return ZipStream(source) if is_zip else TarStream(source)


def starts_with(path: Path, *magic: bytes) -> bool:
    """True if the file starts with one of these bytes; its name says little."""
    with open(path, "rb") as file:
        return file.read(8).startswith(magic)


@contextmanager
def explaining_damage(source: str, stream: Stream | None) -> Iterator[None]:
    """Raises ValueError with one sentence when an archive ends too early or is damaged."""
    try:
        yield
    except ARCHIVE_DAMAGE as error:
        position = stream.position if stream else 0 if is_url(source) else Path(source).stat().st_size
        total = (stream.total if stream else None) or position
        raise ValueError(
            f"the archive {without_secrets(source)} is incomplete or damaged, after {position:,} of {total:,} bytes "
            f"({error}): get a whole copy, and run the same command again to resume"
        ) from None


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    check_bytes(member.size)
    file = archive.extractfile(member)
    assert file is not None
    return file.read()
