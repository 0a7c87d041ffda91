"""Where photographs come from: folders, tars, zips and WebDatasets are listed and then read in any order; compressed
tars, and all archives behind a URL but zips, are streams, which are read once from start to end.
"""

import io
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Literal
from urllib.parse import urlsplit

from .components import is_webdataset, photographs_in, tar_entries
from .http import Download, is_url
from .labels import class_of
from .members import Entry, FileAt, Names, Unfit, ZipMember, members_of, open_zip, unfit

_BESIDE_SHARDS = (".tar", ".idx", ".json", ".csv", ".yaml", ".tsv", ".txt", ".md")


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
        entries = _webdataset([path]) if is_webdataset(members) else tar_entries(path, members)
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
        names = Names(self._source)
        with _whole(self._source, self), tarfile.open(fileobj=self._file, mode="r|*") as archive:
            for number, member in enumerate(archive):
                archive.members = []  # type: ignore[attr-defined]  # the module keeps all that it has seen
                if member.isdir():
                    continue
                entry = names.entry(member.name, unfit(member) or FileAt(folder / f"{number}", temporary=True))
                if not wanted(entry.path):
                    continue
                if isinstance(entry.content, FileAt):
                    data = archive.extractfile(member)
                    assert data is not None
                    entry.content.file.write_bytes(data.read())
                yield entry

    def close(self) -> None:
        self._file.close()


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
    """The members of an uncompressed tar; None if the file is none. Raises ValueError if it is cut."""
    if not _opens(path, "r:"):
        return None
    with _whole(str(path), None):
        return list(members_of(path))


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
    names = Names(source)
    archive = open_zip(source)
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


def _shards_in(folder: Path) -> list[Path]:
    """The tars of a folder that holds a WebDataset and nothing else."""
    files = sorted(folder.iterdir())
    if any(path.is_dir() or path.suffix not in _BESIDE_SHARDS for path in files if not path.name.startswith(".")):
        return []
    return [path for path in files if path.suffix == ".tar"]


def _webdataset(tars: list[Path]) -> list[Entry]:
    """The photographs of several shards, each under a path of its own."""
    entries: list[Entry] = []
    taken: set[str] = set()
    for tar in tars:
        members = _plain_tar(tar)
        if members is None:
            raise ValueError(f"{tar} is no tar: remove it, or name only the shards that hold photographs")
        for photograph in photographs_in(tar, members):
            entry = photograph.entry
            if entry.path in taken:
                again = Unfit("duplicate name", f"another shard holds {entry.path} too")
                entry = replace(entry, path=f"{entry.path}#{tar.stem}", content=again)
            taken.add(entry.path)
            entries.append(entry)
    return entries
