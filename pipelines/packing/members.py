"""Files inside folders and archives: what they are called there, and how their bytes are read.

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

from ..imaging.decode import Rejected, check_bytes, read_file
from .class_names import class_of
from .http import is_url

# What zipfile raises for a member that is damaged, misnamed, or compressed in a way that it does not know. Of the
# ValueErrors only those of names: others are a server's.
_ZIP_DAMAGE = (
    OSError,
    EOFError,
    NotImplementedError,
    UnicodeDecodeError,
    lzma.LZMAError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class LocalFile:
    """A file on disk; a temporary one is removed by who has no more use for it."""

    file: Path
    temporary: bool = False

    def read(self) -> bytes:
        return read_file(self.file)


@dataclass(frozen=True)
class Slice:
    """A member of a plain tar."""

    tar: Path
    offset: int
    size: int

    def read(self) -> bytes:
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
        return read_zipped(archive, archive.infolist()[self.number])


@dataclass(frozen=True)
class Unfit:
    """A member that is not to be read."""

    reason: str
    detail: str = ""

    def read(self) -> bytes:
        raise Rejected(self.reason, self.detail)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of a source: its path there, which no other has, its class, and where its bytes are."""

    path: str
    class_name: str
    content: LocalFile | Slice | ZipMember | Unfit


class UniquePaths:
    """Gives each member of an archive a path of its own."""

    def __init__(self, source: str) -> None:
        self._source_name = PurePosixPath(urlsplit(source).path).name if is_url(source) else Path(source).name
        self._taken: set[str] = set()

    def entry(self, name: str, content: LocalFile | Slice | ZipMember | Unfit) -> Entry:
        path = re.sub(r"^(\./+)+", "", name)
        if path.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", path):
            content = Unfit("unsafe name", "it leads out of the archive")
        occurrence, unique = 1, path
        while unique in self._taken:
            occurrence += 1
            unique = f"{path}#{occurrence}"
        if occurrence > 1:
            content = Unfit("duplicate name", f"the archive holds another {path} before")
        self._taken.add(unique)
        return Entry(path=unique, class_name=class_of(path, self._source_name), content=content)


class StrictTarInfo(tarfile.TarInfo):
    """A member's header; one that is cut or damaged is an error, where tarfile would see the archive's end."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "StrictTarInfo":
        try:
            return super().fromtarfile(tarfile_)
        except (tarfile.TruncatedHeaderError, tarfile.InvalidHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(str(error)) from None


def members_of(tar: Path) -> Iterator[tarfile.TarInfo]:
    """The members of an uncompressed tar, folders aside. Raises tarfile.TarError where it is cut or damaged."""
    with tarfile.open(tar, "r:", tarinfo=StrictTarInfo) as archive:
        for member in archive:
            if not member.isdir():
                yield member


def unfit(member: tarfile.TarInfo) -> Unfit | None:
    """Why a member of a tar is not to be read."""
    if not member.isreg() or member.issparse():
        kind = "symbolic link" if member.issym() else "hard link" if member.islnk() else "special file"
        return Unfit("no regular file", kind)
    return _too_large(member.size)


def unfit_in_zip(info: zipfile.ZipInfo) -> Unfit | None:
    """Why a member of a zip is not to be read."""
    if info.flag_bits & 1:
        return Unfit("encrypted")
    mode = info.external_attr >> 16
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return Unfit("no regular file", "symbolic link" if stat.S_ISLNK(mode) else "special file")
    return _too_large(info.file_size)


def _too_large(size: int) -> Unfit | None:
    try:
        check_bytes(size)
    except Rejected as rejected:
        return Unfit(rejected.reason, rejected.detail)
    return None


def read_zipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member's bytes. Raises Rejected if they are damaged."""
    try:
        return archive.read(info)
    except _ZIP_DAMAGE as error:
        raise Rejected("unreadable", str(error)) from None


@lru_cache(maxsize=2)
def open_zip(path: Path) -> zipfile.ZipFile:
    """An open zip; each process reads its directory once. Raises ValueError."""
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"the archive {path} is incomplete or damaged ({error}): get it whole") from None
