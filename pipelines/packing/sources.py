"""Where photographs come from: folders, tars, zips and WebDatasets are listed, and then read in any order; what cannot
be is a stream (streams.py).
"""

import os
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..shards import MANIFEST
from .class_names import class_of
from .http import is_url
from .members import Entry, LocalFile, Unfit, UniquePaths, ZipMember, members_of, open_zip, unfit_in_zip
from .streams import UNPACKERS, ZIP_MAGIC, begins_with, whole
from .wds_samples import is_photograph, is_webdataset, photographs_in, tar_entries


def listed(source: str) -> list[Entry] | None:
    """All files of a source that can be read in any order; None if it is a stream. Raises ValueError."""
    path = Path(source)
    if is_url(source):
        return None
    if "://" in source:
        raise ValueError(f"{source} is no http or https address: download it, and name the file")
    if not path.exists():
        raise ValueError(f"there is no folder or archive {source}: name one that holds photographs")
    if path.is_dir():
        entries = _webdataset(tars) if (tars := _shards_in(path)) else _folder(path)
    elif zipfile.is_zipfile(path) or begins_with(path, ZIP_MAGIC):
        entries = _zip_entries(path)
    elif (members := _plain_tar(path)) is not None:
        entries = _webdataset([path]) if is_webdataset(members) else tar_entries(path, members)
    elif begins_with(path, *UNPACKERS):
        return None
    else:
        raise ValueError(f"{source} is no folder and no archive (.tar, .tar.gz, .zip) that holds photographs")
    if not entries:
        raise ValueError(f"{source} holds no files: name a folder or an archive that holds photographs")
    return entries


def _folder(source: Path) -> list[Entry]:
    name = source.resolve().name
    paths = sorted((path.relative_to(source).as_posix(), path) for path in _walk(source))
    return [Entry(path=path, class_name=class_of(path, name), content=LocalFile(file)) for path, file in paths]


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
    if not _is_plain_tar(path):
        return None
    with whole(str(path), None):
        return list(members_of(path))


def _is_plain_tar(path: Path) -> bool:
    """Whether it begins as an uncompressed tar does."""
    try:
        with tarfile.open(path, "r:"):
            return True
    except (tarfile.TarError, OSError):
        return False


def _zip_entries(path: Path) -> list[Entry]:
    names = UniquePaths(str(path))
    return [
        names.entry(info.filename, unfit_in_zip(info) or ZipMember(path, number))
        for number, info in enumerate(open_zip(path).infolist())
        if not info.is_dir()
    ]


def _shards_in(folder: Path) -> list[Path]:
    """The tars of a folder that holds a shard set, or shards and neither photographs nor folders."""
    files = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    if (folder / MANIFEST).exists() or not any(path.is_dir() or is_photograph(path.name) for path in files):
        return [path for path in files if path.suffix == ".tar"]
    return []


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
