"""Archives that are read once, from start to end: compressed tars, zips of archives, and whatever lies behind a URL."""

import io
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import IO, cast

from ..address import is_url, without_secrets
from ..imaging.decode import Rejected, check_bytes
from .archives import ZIP_MAGIC, expand
from .http import HttpFile
from .members import (
    ARCHIVE_DAMAGE,
    LocalFile,
    NotTaken,
    SourceFile,
    UniquePaths,
    Unreadable,
    WholeTar,
    bytes_behind,
    check_tar_member,
    check_zip_member,
    clean_name,
    first_byte,
    hard_link_target,
    read_zip_directory,
    read_zip_member,
    source_name,
    zip_members,
)
from .unpacking import Unpacked, is_compressed
from .wds_samples import is_photograph

_BUFFER = 1 << 20
_UNREAD = Unreadable("")  # content that will be read

# A function that reads the member, or the number of an earlier one that a hard link names.
_MemberContent = Unreadable | int | Callable[[], bytes]


class Stream(ABC):
    """An archive's files in its own order. `identity` tells archives apart; `total` is its length in bytes.

    After the last file, `unread` holds the number of bytes behind the end of each archive that has some.
    """

    identity: str
    total: int | None

    def __init__(self, source: str) -> None:
        self.source = source
        self.unread: dict[str, int] = {}

    @property
    @abstractmethod
    def position(self) -> int:
        """Bytes of the archive that have been read."""

    @abstractmethod
    def close(self) -> None:
        """Stops reading."""

    @abstractmethod
    def _members(self) -> Iterator[tuple[str, _MemberContent]]:
        """Yields each file's name, and its content, which is to be read before the next file."""

    def files(self, is_wanted: Callable[[str], bool], folder: Path) -> Generator[SourceFile]:
        """Yields the files whose paths are wanted, each written to `folder`, from where the caller removes it.

        Archives in the archive are unpacked. Hard links come last: what they name is read again. `is_wanted` is called
        once for each file that is taken. Raises ValueError when the archive is damaged or ends too early.
        """
        paths, links = UniquePaths(self.source), dict[int, list[SourceFile]]()
        extractor = _Extractor(self, paths, is_wanted, folder)
        for name, content in self._members():
            file = paths.add(name, content if isinstance(content, Unreadable) else _UNREAD)
            is_unreadable = file.content is not _UNREAD
            if (is_unreadable or is_photograph(file.path)) and not is_wanted(file.path):
                continue  # anything else may be an archive of files that are wanted
            if is_unreadable:
                yield file
            elif isinstance(content, int):
                links.setdefault(content, []).append(file)
            else:
                yield from extractor.extract(file, cast(Callable[[], bytes], content))
        if links:
            with closing(open_stream(self.source)) as again:
                for number, (_, content) in enumerate(again._members()):
                    if number in links:
                        read = cache(cast(Callable[[], bytes], content))
                        for file in links[number]:
                            yield from extractor.extract(file, read)


class _Extractor:
    """Writes the files of a stream, and those in its archives, to a folder."""

    def __init__(self, stream: Stream, paths: UniquePaths, is_wanted: Callable[[str], bool], folder: Path) -> None:
        self._stream, self._paths, self._is_wanted, self._folder = stream, paths, is_wanted, folder
        self._numbers = count()  # names of the files in the folder

    def extract(self, file: SourceFile, read: Callable[[], bytes]) -> Iterator[SourceFile]:
        """Yields the file, or the files in it if it is an archive, those that are wanted, as local files."""
        local = self._local(file, read)
        if is_photograph(file.path):  # and wanted
            yield local
            return
        for inner in expand([local], self._stream.unread):
            if inner is not local and inner.path != file.path:
                inner = self._paths.distinct(inner)
            if isinstance(inner.content, NotTaken):
                yield inner
            elif self._is_wanted(inner.path):
                yield inner if inner is local else self._local(inner, inner.content.read)
                if inner is local:
                    return
        if isinstance(local.content, LocalFile):
            local.content.path.unlink()

    def _local(self, file: SourceFile, read: Callable[[], bytes]) -> SourceFile:
        """Returns the file with a copy of its bytes on disk, or as unreadable."""
        try:
            with explaining_damage(self._stream.source, self._stream):
                data = read()
        except Rejected as rejected:
            return replace(file, content=Unreadable(rejected.reason, rejected.detail))
        place = self._folder / str(next(self._numbers))
        place.write_bytes(data)
        return replace(file, content=LocalFile(place, temporary=True))


class _Forward:
    """A file that is read once. Raises EOFError where its end is skipped; tarfile's own streams would hang there."""

    def __init__(self, file: IO[bytes]) -> None:
        self.read, self.tell = file.read, file.tell

    def seek(self, position: int) -> None:
        while gap := position - self.tell():
            if gap < 0 or not self.read(min(gap, _BUFFER)):
                raise EOFError("a header leads behind the end, or back")


class TarStream(Stream):
    """A tar, compressed or not."""

    def __init__(self, source: str, file: "io.BufferedReader[io.RawIOBase]", total: int | None, identity: str) -> None:
        super().__init__(source)
        self._file, self.total, self.identity = file, total, identity
        self._packed = Unpacked(file) if is_compressed(file.peek(8)) else None
        self._unpacked = cast(IO[bytes], io.BufferedReader(self._packed, _BUFFER) if self._packed else file)

    @property
    def position(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()

    def _members(self) -> Iterator[tuple[str, _MemberContent]]:
        with explaining_damage(self.source, self):
            archive = WholeTar.open(fileobj=cast(IO[bytes], _Forward(self._unpacked)), mode="r:")
        known: dict[str, int | Unreadable] = {}
        numbers = count()
        while True:
            with explaining_damage(self.source, self):
                member = archive.next()
            archive.members = []  # type: ignore[attr-defined]  # tarfile keeps all members that it has seen
            if member is None:
                break
            if member.isdir():
                continue
            number, bad = next(numbers), check_tar_member(member)
            content = hard_link_target(member, known) if member.islnk() else bad or partial(_read, archive, member)
            known[clean_name(member.name)] = number if callable(content) else content
            yield member.name, content
        with explaining_damage(self.source, self):  # the checksum comes last
            while self._unpacked.read(_BUFFER):
                pass
        unread = self._packed.num_unread if self._packed else 0
        if archive.unread_from is not None:
            unread += self._unpacked.tell() - archive.unread_from
        if unread:
            self.unread[source_name(self.source)] = unread


class ZipStream(Stream):
    """A zip of archives, or behind a URL, whose server must serve ranges."""

    def __init__(self, source: str) -> None:
        super().__init__(source)
        raw, self.total, self.identity = _open(source, seekable=True)
        self._position = 0
        with explaining_damage(source, None):
            self._archive = read_zip_directory(io.BufferedReader(raw, _BUFFER))

    @property
    def position(self) -> int:
        return self._position

    def close(self) -> None:
        self._archive.close()

    def _members(self) -> Iterator[tuple[str, _MemberContent]]:
        if num_unread := first_byte(self._archive) + bytes_behind(self._archive):
            self.unread[source_name(self.source)] = num_unread
        for _, name, info in zip_members(self._archive):
            self._position = info.header_offset
            yield name, check_zip_member(info) or partial(read_zip_member, self._archive, info)


def open_stream(source: str) -> Stream:
    """Opens the archive. Raises ValueError when it cannot be reached."""
    raw, total, identity = _open(source)
    file = io.BufferedReader(raw, _BUFFER)
    if not file.peek(4).startswith(ZIP_MAGIC):
        return TarStream(source, file, total, identity)
    file.close()
    return ZipStream(source)


def _open(source: str, *, seekable: bool = False) -> tuple[io.RawIOBase, int | None, str]:
    """Opens a file or a URL; returns its length and identity, too."""
    raw: io.RawIOBase
    if is_url(source):
        raw = remote = HttpFile(source, seekable=seekable)
        total, version = remote.total, remote.version
    else:
        raw, status = io.FileIO(source), Path(source).stat()
        total, version = status.st_size, str(status.st_mtime_ns)
    return raw, total, f"{total} bytes, {version}"


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
