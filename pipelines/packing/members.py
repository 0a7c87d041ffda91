"""Files inside folders and archives: their paths, and how their bytes are read.

Nothing is ever extracted under a name that an archive chose: names are data, and only regular files are read.
"""

import io
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import IO, Any, Self, TypeVar, cast
from urllib.parse import urlsplit

from ..address import is_url
from ..class_names import class_of
from ..imaging.decode import Rejected, check_bytes, read_file

# Raised by zipfile and tarfile for archives that they cannot read.
ARCHIVE_DAMAGE = (
    *(OSError, EOFError, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, zlib.error),
    NotImplementedError,  # zipfile's, for a compression that it does not know
    UnicodeDecodeError,  # of a name; other ValueErrors come from a server
)
_MAX_NAME_BYTES = 1 << 20  # of a tar's header that holds a long name or pax records
_UNIX = (3, 19)  # systems that zips are made on whose names may have backslashes: Unix, macOS


T = TypeVar("T")


@dataclass(frozen=True)
class LocalFile:
    """A file on disk. A temporary one is removed once it has been read."""

    path: Path
    temporary: bool = False

    def read(self) -> bytes:
        return read_file(self.path)


@dataclass(frozen=True)
class TarMember:
    """A member of an uncompressed tar, by its bytes there; `sparse` lists (start, bytes) of its parts between holes."""

    path: Path
    offset: int
    size: int
    sparse: tuple[tuple[int, int], ...] | None = None

    def open(self) -> IO[bytes]:
        """Opens the member as a seekable file."""
        member = tarfile.TarInfo()
        member.offset_data, member.size, member.sparse = self.offset, self.size, cast(Any, self.sparse)
        return tarfile.ExFileObject(cast(Any, SimpleNamespace(fileobj=open(self.path, "rb"))), member)

    def read(self) -> bytes:
        check_bytes(self.size)
        try:
            return self.open().read()
        except (OSError, tarfile.TarError) as error:
            raise Rejected("unreadable", getattr(error, "strerror", None) or str(error)) from None


@dataclass(frozen=True)
class ZipMember:
    """A member of a zip, by its number in the zip's directory; the zip is a file, or a member of a tar."""

    zip: LocalFile | TarMember
    number: int

    def read(self) -> bytes:
        archive = open_zip(self.zip)
        return read_zip_member(archive, archive.infolist()[self.number])


@dataclass(frozen=True)
class Unreadable:
    """Stands for content that must not be read."""

    reason: str
    detail: str = ""

    def read(self) -> bytes:
        raise Rejected(self.reason, self.detail)


@dataclass(frozen=True)
class NotTaken(Unreadable):
    """Stands for a file that belongs to others, such as a part of a sample."""


Content = LocalFile | TarMember | ZipMember | Unreadable


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One file of a source: its unique path there, its class, and where its bytes are."""

    path: str
    class_name: str
    content: Content


def source_name(source: str) -> str:
    """Returns the last part of a path or an address."""
    return PurePosixPath(urlsplit(source).path).name if is_url(source) else Path(source).name


def clean_name(name: str) -> str:
    """Returns a member's name without ./ in front."""
    return re.sub(r"^(\./+)+", "", name)


class UniquePaths:
    """Gives each file of a source a path of its own."""

    def __init__(self, source: str) -> None:
        self._source_name = source_name(source)
        self._taken: dict[str, int] = {}  # by path: the last number that was given to a file of that path

    def add(self, name: str, content: Content) -> SourceFile:
        """Returns the member as a source file; unsafe and repeated names become unreadable."""
        path = clean_name(name)
        if path.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", path):
            content = Unreadable("unsafe name", "it leads out of the archive")
        file = SourceFile(path=path, class_name=class_of(path, self._source_name), content=content)
        unique = self.distinct(file)
        if unique is file:
            return file
        return replace(unique, content=Unreadable("duplicate name", f"the archive holds another {path} before"))

    def distinct(self, file: SourceFile) -> SourceFile:
        """Returns the file under another path if its own is taken."""
        number, unique = self._taken.get(file.path, 1), file.path
        while unique in self._taken:
            number += 1
            unique = f"{file.path}#{number}"
        self._taken |= {unique: 1, file.path: number}
        return file if unique == file.path else replace(file, path=unique)


class _StrictTarInfo(tarfile.TarInfo):
    """A tar header that raises ReadError when it is cut or damaged; tarfile would take it for the archive's end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or (header.size > _MAX_NAME_BYTES and header.type in b"xgXLK"):  # these are read whole
            raise tarfile.InvalidHeaderError("a size is impossible")  # type: ignore[attr-defined]
        return header

    @classmethod
    def fromtarfile(cls, archive: "WholeTar") -> Self:  # type: ignore[override]
        try:
            member = super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            archive.has_ended = True
            raise
        except (tarfile.TruncatedHeaderError, tarfile.InvalidHeaderError) as error:  # type: ignore[attr-defined]
            if not archive.has_ended:
                raise tarfile.ReadError(str(error)) from None
            archive.unread_from = archive.offset
            raise tarfile.EmptyHeaderError from None  # type: ignore[attr-defined]  # the end for tarfile
        except (ValueError, RecursionError):  # a map of holes without numbers, thousands of long names in a row
            raise tarfile.ReadError("a header is damaged") from None
        if member.size < 0 or not member.offset < archive.offset < 1 << 62:  # the next header's
            raise tarfile.ReadError("a size is impossible")
        archive.has_ended = False
        return member


class WholeTar(tarfile.TarFile):
    """A tar that is read to its last byte: joined archives are one, and lone blocks of zeros are skipped.

    Raises ReadError where it is cut or damaged. Bytes that follow zeros and are not a member are not read. They begin
    at `unread_from`.
    """

    tarinfo = _StrictTarInfo
    ignore_zeros = True
    has_ended = False  # the last block was one of zeros
    unread_from: int | None = None


def tar_members(tar: TarMember, unread: dict[str, int], name: str) -> tuple[list[tarfile.TarInfo], str]:
    """Returns the members of a tar up to where it is cut or damaged, and what is wrong with it ("" if nothing).

    Folders are left out. `offset_data` counts from the start of the file that the tar lies in. `unread` gets the number
    of bytes behind the tar's end, under its name.
    """
    members: list[tarfile.TarInfo] = []
    try:
        with tar.open() as file, WholeTar.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                member.offset_data += tar.offset
                if not member.isdir():
                    members.append(member)
            if archive.unread_from is not None:
                unread[name] = tar.size - archive.unread_from
    except (tarfile.TarError, OSError) as error:
        return members, str(error)
    return members, ""


def tar_contents(tar: Path, members: Iterable[tarfile.TarInfo]) -> Iterator[Content]:
    """Yields where the bytes of each member are; a hard link's are those of the member that it names."""
    contents: dict[str, Content] = {}
    for member in members:
        if member.islnk():
            content = hard_link_target(member, contents)
        else:
            content = check_tar_member(member) or TarMember(tar, member.offset_data, member.size, _sparse_map(member))
        contents[clean_name(member.name)] = content
        yield content


def hard_link_target(member: tarfile.TarInfo, known: Mapping[str, T]) -> T | Unreadable:
    """Returns the value, in `known` by clean names, of the earlier member that a hard link names."""
    missing = Unreadable("no regular file", f"hard link to {member.linkname}, which is not before it")
    return known.get(clean_name(member.linkname), missing)


def check_tar_member(member: tarfile.TarInfo) -> Unreadable | None:
    """Returns the reason that a member of a tar must not be read; None if it may be."""
    if not member.isreg():
        kind = "symbolic link" if member.issym() else "special file"
        return Unreadable("no regular file", kind)
    end = 0
    for start, size in _sparse_map(member) or ():
        if size < 0 or not end <= start <= start + size <= member.size:
            return Unreadable("unreadable", "its map of holes is damaged")
        end = start + size
    return None


def _sparse_map(member: tarfile.TarInfo) -> tuple[tuple[int, int], ...] | None:
    """Returns start and bytes of each part of a file with holes; None of another."""
    parts = cast(Any, member.sparse)
    return None if parts is None else tuple((start, size) for start, size in parts if size)  # GNU tar pads its list


def zip_members(archive: zipfile.ZipFile) -> Iterator[tuple[int, str, zipfile.ZipInfo]]:
    """Yields number and name of each member except folders; Windows wrote some names with backslashes."""
    for number, info in enumerate(archive.infolist()):
        name = info.filename if info.create_system in _UNIX else info.filename.replace("\\", "/")
        if not name.endswith("/"):
            yield number, name, info


def first_byte(archive: zipfile.ZipFile) -> int:
    """Returns where a zip begins in its file, which is not at 0 if something was joined in front of it."""
    return min((info.header_offset for info in archive.infolist()), default=archive.start_dir)


def bytes_behind(archive: zipfile.ZipFile) -> int:
    """Returns how many bytes follow the end of a zip, up to the 64 KB that zipfile skips."""
    file = cast(IO[bytes], archive.fp)
    file.seek(max(0, file.seek(0, io.SEEK_END) - (1 << 16) - 22))  # the end's record, and its longest comment
    record = b"PK\5\6" + file.read().rpartition(b"PK\5\6")[2]
    return max(0, len(record) - 22 - len(archive.comment))


def check_zip_member(info: zipfile.ZipInfo) -> Unreadable | None:
    """Returns the reason that a member of a zip must not be read; None if it may be."""
    if info.flag_bits & 1:
        return Unreadable("encrypted")
    mode = info.external_attr >> 16
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return Unreadable("no regular file", "symbolic link" if stat.S_ISLNK(mode) else "special file")
    return None


def read_zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Returns a member's bytes. Raises Rejected if they are damaged or too many."""
    check_bytes(info.file_size)
    try:
        return archive.read(info)
    except ARCHIVE_DAMAGE as error:
        raise Rejected("unreadable", str(error)) from None


@lru_cache(maxsize=2)
def open_zip(place: LocalFile | TarMember) -> zipfile.ZipFile:
    """Opens a zip, once per process. Raises ARCHIVE_DAMAGE."""
    return read_zip_directory(place.path if isinstance(place, LocalFile) else place.open())


def read_zip_directory(file: Path | IO[bytes]) -> zipfile.ZipFile:
    """Opens a zip. Names without a mark of their encoding are UTF-8 if all of them can be, else cp437."""
    try:
        return zipfile.ZipFile(file, metadata_encoding="utf-8")
    except UnicodeDecodeError:
        return zipfile.ZipFile(file)
