"""Lists the files of a source: folders, plain tars, zips and WebDatasets, which can be read in any order.

Other archives are streams (streams.py).
"""

import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ..address import is_url, without_secrets
from ..class_names import class_of
from ..shards import MANIFEST
from .members import LocalFile, SourceFile, UniquePaths, ZipMember, check_zip_member, open_zip, tar_members
from .streams import UNPACKERS, ZIP_MAGIC, explaining_damage, starts_with
from .wds_samples import is_photograph, is_webdataset, tar_files, unique_photographs


def list_files(source: str) -> list[SourceFile] | None:
    """Returns all files of a source that can be read in any order; None if it is a stream. Raises ValueError."""
    path = Path(source)
    if is_url(source):
        return None
    if "://" in source:
        raise ValueError(f"{without_secrets(source)} is not an http or https address: download it, and name the file")
    if not path.exists():
        raise ValueError(f"there is no folder or archive {source}: name one that holds photographs")
    if path.is_dir():
        files = _webdataset(tars) if (tars := _shards_in(path)) else _folder(path)
    elif zipfile.is_zipfile(path) or starts_with(path, ZIP_MAGIC):
        files = _zip_files(path)
    elif (members := _plain_tar(path)) is not None:
        files = _webdataset([path]) if is_webdataset(members) else tar_files(path, members)
    elif starts_with(path, *UNPACKERS):
        return None
    else:
        raise ValueError(f"{source} is neither a folder nor an archive (.tar, .tar.gz, .zip) that holds photographs")
    if not files:
        raise ValueError(f"{source} holds no files: name a folder or an archive that holds photographs")
    return files


def _folder(source: Path) -> list[SourceFile]:
    name = source.resolve().name
    paths = sorted((path.relative_to(source).as_posix(), path) for path in _walk(source))
    return [SourceFile(path=path, class_name=class_of(path, name), content=LocalFile(file)) for path, file in paths]


def _walk(source: Path) -> Iterator[Path]:
    """Yields all files below `source`; follows links to folders, except to a folder that the link is in."""

    def refuse(error: OSError) -> None:  # os.walk would skip an unreadable folder, and lose its files silently
        raise ValueError(f"cannot list {error.filename}: {error.strerror}")

    for folder, subfolders, names in os.walk(source, onerror=refuse, followlinks=True):
        above = {parent.resolve() for parent in (Path(folder), *Path(folder).parents)}
        above |= {parent for path in list(above) for parent in path.parents}
        subfolders[:] = [name for name in subfolders if Path(folder, name).resolve() not in above]
        yield from (Path(folder, name) for name in names)


def _plain_tar(path: Path) -> list[tarfile.TarInfo] | None:
    """Returns the members of an uncompressed tar; None if the file is not one. Raises ValueError if it is cut."""
    try:
        with tarfile.open(path, "r:"):
            pass
    except (tarfile.TarError, OSError):
        return None
    with explaining_damage(str(path), None):
        return list(tar_members(path))


def _zip_files(path: Path) -> list[SourceFile]:
    paths = UniquePaths(str(path))
    return [
        paths.add(info.filename, check_zip_member(info) or ZipMember(path, number))
        for number, info in enumerate(open_zip(path).infolist())
        if not info.is_dir()
    ]


def _shards_in(folder: Path) -> list[Path]:
    """Returns the tars of a folder that holds a shard set, or shards and neither photographs nor folders."""
    files = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    if (folder / MANIFEST).exists() or not any(path.is_dir() or is_photograph(path.name) for path in files):
        return [path for path in files if path.suffix == ".tar"]
    return []


def _webdataset(tars: list[Path]) -> list[SourceFile]:
    """Returns the photographs of several shards under unique paths."""
    shards = ((tar, _shard_members(tar)) for tar in tars)
    return [photograph.file for _, photograph in unique_photographs(shards)]


def _shard_members(tar: Path) -> list[tarfile.TarInfo]:
    if (members := _plain_tar(tar)) is None:
        raise ValueError(f"{tar} is not a tar: remove it, or name only the shards that hold photographs")
    return members
