"""Files inside folders and archives: what they are called there, and how their bytes are read.

Nothing is ever extracted under a name that an archive chose: names are data, and only regular files are read.
"""

import io
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from .http import RemoteFile, is_url
from .labels import class_of
from .photograph import Rejected, read_file


@dataclass(frozen=True)
class FileAt:
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
    """A member of a zip, on disk or behind a URL, by its number in the zip's directory."""

    zip: str
    number: int

    def read(self) -> bytes:
        archive = open_zip(self.zip)
        try:
            return archive.read(archive.infolist()[self.number])
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
            raise Rejected("unreadable", str(error)) from None


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
    content: FileAt | Slice | ZipMember | Unfit


class Names:
    """Gives each member of an archive a path of its own."""

    def __init__(self, source: str) -> None:
        self._source_name = PurePosixPath(urlsplit(source).path).name if is_url(source) else Path(source).name
        self._taken: set[str] = set()

    def entry(self, name: str, content: FileAt | Slice | ZipMember | Unfit) -> Entry:
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


def members_of(tar: Path) -> Iterator[tarfile.TarInfo]:
    """The members of an uncompressed tar, folders aside. Raises tarfile.TarError where it is cut."""
    with tarfile.open(tar, "r:") as archive:
        for member in archive:
            if not member.isdir():
                yield member


def unfit(member: tarfile.TarInfo) -> Unfit | None:
    if member.isreg() and not member.issparse():
        return None
    kind = "symbolic link" if member.issym() else "hard link" if member.islnk() else "special file"
    return Unfit("no regular file", kind)


@lru_cache(maxsize=2)
def open_zip(source: str) -> zipfile.ZipFile:
    """An open zip; each process reads its directory once."""
    try:
        return zipfile.ZipFile(io.BufferedReader(RemoteFile(source), 1 << 18) if is_url(source) else source)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"the archive {source} is incomplete or damaged ({error}): get it whole") from None
