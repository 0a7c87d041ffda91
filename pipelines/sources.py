"""Where photographs come from: folders, tars, zips and WebDatasets are listed and then read in any order; compressed
tars, and all archives behind a URL but zips, are streams, which are read once from start to end.

Nothing is ever extracted under a name that an archive chose: names are data, and only regular files are read.
"""

import io
import json
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal
from urllib.parse import urlsplit

from .http import Download, RemoteFile, is_url
from .labels import class_of
from .photograph import Rejected, read_file

PHOTOGRAPH_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".jp2", ".avif")
_BESIDE_SHARDS = (".tar", ".idx", ".json", ".csv", ".yaml", ".tsv", ".txt", ".md")
_COMPONENTS = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)  # WebDataset: key and extension, from the first dot


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
        archive = _zip(self.zip)
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


def listed(source: str) -> list[Entry] | None:
    """All files of a source that can be read in any order; None if it is a stream. Raises ValueError."""
    path = Path(source)
    if is_url(source):
        return _zip_entries(source) if urlsplit(source).path.lower().endswith(".zip") else None
    if not path.exists():
        raise ValueError(f"there is no folder or archive {source}: name one that holds photographs")
    if path.is_dir():
        entries = _webdataset(tars) if (tars := _shards_in(path)) else _folder(path)
    elif zipfile.is_zipfile(path):
        entries = _zip_entries(source)
    elif (members := _plain_tar(path)) is not None:
        entries = _webdataset([path]) if _is_webdataset(members) else _tar_entries(path, members)
    elif _opens(path, "r|*"):
        return None
    else:
        raise ValueError(f"{source} is no folder and no archive (.tar, .tar.gz, .zip) that holds photographs")
    if not entries:
        raise ValueError(f"{source} holds no files: name a folder or an archive that holds photographs")
    return entries


class Stream:
    """An archive that is read once, from start to end. `identity` tells another archive from this one."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._remote = Download(source) if is_url(source) else None
        self.total: int | None = self._remote.total if self._remote else Path(source).stat().st_size
        self.identity = f"{self.total} bytes {self._remote.version if self._remote else ''}".strip()
        self._file: IO[bytes] = io.BufferedReader(self._remote or io.FileIO(source), 1 << 20)

    @property
    def position(self) -> int:
        """Bytes of the archive that have been read."""
        return self._file.tell()

    def entries(self, wanted: Callable[[str], bool], folder: Path) -> Generator[Entry]:
        """The files whose paths are `wanted`, in the archive's order.

        Each is written to `folder`, whence the caller removes it. Raises ValueError when the archive ends too early.
        """
        names = _Names(self._source)
        with _whole(self._source, self), tarfile.open(fileobj=self._file, mode="r|*") as archive:
            for number, member in enumerate(archive):
                archive.members = []  # type: ignore[attr-defined]  # the module keeps all that it has seen
                if member.isdir():
                    continue
                entry = names.entry(member.name, _unfit(member) or FileAt(folder / f"{number}", temporary=True))
                if not wanted(entry.path):
                    continue
                if isinstance(entry.content, FileAt):
                    data = archive.extractfile(member)
                    assert data is not None
                    entry.content.file.write_bytes(data.read())
                yield entry

    def close(self) -> None:
        self._file.close()


class _Names:
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


def _folder(source: Path) -> list[Entry]:
    name = source.resolve().name
    paths = sorted((path.relative_to(source).as_posix(), path) for path in _walk(source))
    return [Entry(path=path, class_name=class_of(path, name), content=FileAt(file)) for path, file in paths]


def _walk(source: Path) -> Iterator[Path]:
    """All files below `source`; links to folders are followed, but not round in a circle."""

    def refuse(error: OSError) -> None:  # os.walk would skip an unreadable folder, and lose its files silently
        raise ValueError(f"cannot list {error.filename}: {error.strerror}")

    for folder, subfolders, names in os.walk(source, onerror=refuse, followlinks=True):
        above = {parent.resolve() for parent in (Path(folder), *Path(folder).parents)}
        above |= {parent for path in list(above) for parent in path.parents}
        subfolders[:] = [name for name in subfolders if Path(folder, name).resolve() not in above]
        yield from (Path(folder, name) for name in names)


def _plain_tar(path: Path) -> list[tarfile.TarInfo] | None:
    """The members of an uncompressed tar, folders aside; None if the file is none. Raises ValueError if it is cut."""
    if not _opens(path, "r:"):
        return None
    with _whole(str(path), None), tarfile.open(path, "r:") as archive:
        return [member for member in archive if not member.isdir()]


def _tar_entries(path: Path, members: Iterable[tarfile.TarInfo]) -> list[Entry]:
    names = _Names(str(path))
    return [
        names.entry(member.name, _unfit(member) or Slice(path, member.offset_data, member.size)) for member in members
    ]


def _unfit(member: tarfile.TarInfo) -> Unfit | None:
    if member.isreg() and not member.issparse():
        return None
    kind = "symbolic link" if member.issym() else "hard link" if member.islnk() else "special file"
    return Unfit("no regular file", kind)


def _opens(path: Path, mode: Literal["r:", "r|*"]) -> bool:
    """Whether it begins as a tar does: plain with mode r:, compressed in any way with r|*."""
    try:
        with tarfile.open(path, mode):
            return True
    except (tarfile.TarError, OSError, EOFError, zlib.error):
        return False


@contextmanager
def _whole(source: str, stream: Stream | None) -> Iterator[None]:
    """Says in a sentence that an archive ends too early, or is damaged."""
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error) as error:
        found = stream.position if stream else Path(source).stat().st_size
        total = stream.total if stream and stream.total else found
        raise ValueError(
            f"the archive {source} is incomplete or damaged, after {found:,} of {total:,} bytes ({error}): get it "
            "whole, and run the same command again to go on"
        ) from None


def _zip_entries(source: str) -> list[Entry]:
    names = _Names(source)
    archive = _zip(source)
    return [
        names.entry(info.filename, _unfit_in_zip(info) or ZipMember(source, number))
        for number, info in enumerate(archive.infolist())
        if not info.is_dir()
    ]


def _unfit_in_zip(info: zipfile.ZipInfo) -> Unfit | None:
    if info.flag_bits & 1:
        return Unfit("encrypted")
    mode = info.external_attr >> 16
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return Unfit("no regular file", "symbolic link" if stat.S_ISLNK(mode) else "special file")
    return None


@lru_cache(maxsize=2)
def _zip(source: str) -> zipfile.ZipFile:
    """An open zip; each process reads its directory once."""
    try:
        return zipfile.ZipFile(io.BufferedReader(RemoteFile(source), 1 << 18) if is_url(source) else source)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"the archive {source} is incomplete or damaged ({error}): get it whole") from None


def _shards_in(folder: Path) -> list[Path]:
    """The tars of a folder that holds a WebDataset and nothing else."""
    files = sorted(folder.iterdir())
    if any(path.is_dir() or path.suffix not in _BESIDE_SHARDS for path in files if not path.name.startswith(".")):
        return []
    return [path for path in files if path.suffix == ".tar"]


def _is_webdataset(members: list[tarfile.TarInfo]) -> bool:
    """Whether the first two files are components of one sample."""
    keys = [match[1] for member in members[:2] if (match := _COMPONENTS.fullmatch(member.name))]
    return len(keys) == 2 and keys[0] == keys[1] and members[0].name != members[1].name


def _webdataset(tars: list[Path]) -> list[Entry]:
    """The photographs of WebDataset shards: each member that is named as a picture, with what lies beside it."""
    entries: list[Entry] = []
    for tar in tars:
        members = _plain_tar(tar)
        if members is None:
            raise ValueError(f"{tar} is no tar: remove it, or name only the shards that hold photographs")
        beside = _components(tar, members)
        for entry in _tar_entries(tar, members):
            suffix = PurePosixPath(entry.path).suffix.lower()
            key = _key(entry.path)
            if suffix in PHOTOGRAPH_SUFFIXES or isinstance(entry.content, Unfit):
                beside[key] = {**beside.get(key, {}), "found": True}
                entries.append(_described(tar, entry, beside[key]))
        entries += [
            Entry(path=f"{tar.stem}/{key}", class_name="", content=Unfit("no photograph", "a sample of other parts"))
            for key, facts in beside.items()
            if not facts.get("found")
        ]
    taken: set[str] = set()
    for number, entry in enumerate(entries):
        if entry.path in taken:
            detail = f"another shard holds {entry.path} too"
            path = f"{entry.path}#{number}"
            entries[number] = Entry(path=path, class_name=entry.class_name, content=Unfit("duplicate name", detail))
        taken.add(entry.path)
    return entries


def _key(name: str) -> str:
    match = _COMPONENTS.fullmatch(name)
    return match[1] if match else name


def _components(tar: Path, members: list[tarfile.TarInfo]) -> dict[str, dict[str, Any]]:
    """By key, what the json and cls members of a shard say; every key is there."""
    beside: dict[str, dict[str, Any]] = {}
    for member in members:
        facts = beside.setdefault(_key(member.name), {})
        extension = PurePosixPath(member.name).suffix.lower()
        if extension in (".json", ".cls") and member.isreg() and member.size < 1 << 20:
            text = Slice(tar, member.offset_data, member.size).read().decode(errors="replace")
            if extension == ".cls":
                facts["class"] = text.strip()
            else:
                facts |= _ours(text)
    return beside


def _ours(text: str) -> dict[str, str]:
    """Path and class out of a json member that a packer of ours has written."""
    try:
        facts = json.loads(text)
        return {name: facts[name] for name in ("path", "class") if isinstance(facts[name], str)}
    except (ValueError, KeyError, TypeError):
        return {}


def _described(tar: Path, entry: Entry, facts: dict[str, Any]) -> Entry:
    return Entry(
        path=facts.get("path", f"{tar.stem}/{entry.path}"),
        class_name=facts.get("class", entry.class_name),
        content=entry.content,
    )
