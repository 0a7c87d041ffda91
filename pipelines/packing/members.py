"""Files inside folders and archives: their paths, and how their bytes are read.

Nothing is ever extracted under a name that an archive chose: names are data, and only regular files are read.
"""

import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from ..address import is_url
from ..class_names import class_of
from ..imaging.decode import Rejected, check_bytes, read_file

# Raised by zipfile and tarfile for damaged archives.
ARCHIVE_DAMAGE = (OSError, EOFError, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, zlib.error)
# Also raised for a member of a zip that is misnamed or compressed in an unknown way. UnicodeDecodeError is the only
# ValueError: others come from a server.
_ZIP_DAMAGE = (*ARCHIVE_DAMAGE, NotImplementedError, UnicodeDecodeError)


@dataclass(frozen=True)
class LocalFile:
    """A file on disk. A temporary one is removed once it has been read."""

    path: Path
    temporary: bool = False

    def read(self) -> bytes:
        return read_file(self.path)


@dataclass(frozen=True)
class TarMember:
    """A member of an uncompressed tar, by its bytes there."""

    tar: Path
    offset: int
    size: int

    def read(self) -> bytes:
        check_bytes(self.size)
        try:
            with open(self.tar, "rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise Rejected("unreadable", error.strerror or str(error)) from None
        if len(data) < self.size:
            raise Rejected("unreadable", f"the archive ends after {len(data)} of {self.size} bytes")
        return data


@dataclass(frozen=True)
class ZipMember:
    """A member of a zip, by its number in the zip's directory."""

    zip: Path
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


Content = LocalFile | TarMember | ZipMember | Unreadable


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One file of a source: its unique path there, its class, and where its bytes are."""

    path: str
    class_name: str
    content: Content


class UniquePaths:
    """Gives each member of an archive a path of its own."""

    def __init__(self, source: str) -> None:
        self._source_name = PurePosixPath(urlsplit(source).path).name if is_url(source) else Path(source).name
        self._taken: set[str] = set()

    def add(self, name: str, content: Content) -> SourceFile:
        """Returns the member as a source file; unsafe and repeated names become unreadable."""
        path = re.sub(r"^(\./+)+", "", name)
        if path.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", path):
            content = Unreadable("unsafe name", "it leads out of the archive")
        occurrence, unique = 1, path
        while unique in self._taken:
            occurrence += 1
            unique = f"{path}#{occurrence}"
        if occurrence > 1:
            content = Unreadable("duplicate name", f"the archive holds another {path} before")
        self._taken.add(unique)
        return SourceFile(path=unique, class_name=class_of(path, self._source_name), content=content)


class StrictTarInfo(tarfile.TarInfo):
    """A tar header that raises ReadError when it is cut or damaged; tarfile would take it for the archive's end."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "StrictTarInfo":
        try:
            return super().fromtarfile(tarfile_)
        except (tarfile.TruncatedHeaderError, tarfile.InvalidHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(str(error)) from None


def tar_members(tar: Path) -> Iterator[tarfile.TarInfo]:
    """Yields the members of an uncompressed tar except folders. Raises tarfile.TarError where it is cut or damaged."""
    with tarfile.open(tar, "r:", tarinfo=StrictTarInfo) as archive:
        for member in archive:
            if not member.isdir():
                yield member


def check_tar_member(member: tarfile.TarInfo) -> Unreadable | None:
    """Returns why a member of a tar must not be read, if so."""
    if not member.isreg() or member.issparse():
        kind = "symbolic link" if member.issym() else "hard link" if member.islnk() else "special file"
        return Unreadable("no regular file", kind)
    return None


def check_zip_member(info: zipfile.ZipInfo) -> Unreadable | None:
    """Returns why a member of a zip must not be read, if so."""
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
    except _ZIP_DAMAGE as error:
        raise Rejected("unreadable", str(error)) from None


@lru_cache(maxsize=2)
def open_zip(path: Path) -> zipfile.ZipFile:
    """Opens a zip, once per process. Raises ValueError."""
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"the archive {path} is incomplete or damaged ({error}): get a whole copy") from None
