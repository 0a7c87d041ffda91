"""Lists the files of a source: folders, plain tars and zips, with WebDatasets and archives in them, in any order.

Other archives are streams (streams.py).
"""

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tarfile import ReadError

from ..address import is_url, without_secrets
from ..class_names import class_of
from ..shards import MANIFEST, REJECTS
from .archives import NESTED, ZIP_MAGIC, expand, is_tar, list_archive, read_head
from .members import LocalFile, NotTaken, SourceFile, UniquePaths, ZipMember, open_zip
from .streams import explaining_damage
from .unpacking import is_compressed

_SET_FILES = (MANIFEST, REJECTS, "config.yaml", "summary.json")  # beside the tars of a shard set, and their indices


def list_files(source: str, unread: dict[str, int]) -> list[SourceFile] | None:
    """Returns all files of a source that can be read in any order; None if it is a stream. Raises ValueError.

    `unread` gets the number of bytes before or behind the content of each archive, under its name.
    """
    path = Path(source)
    open_zip.cache_clear()  # a zip may have been replaced since it was read
    if is_url(source):
        return None
    if "://" in source:
        raise ValueError(f"{without_secrets(source)} is not an http or https address: download it, and name the file")
    if not path.exists():
        raise ValueError(f"there is no folder or archive {source}: name one that holds photographs")
    listed = _folder(path) if path.is_dir() else _archive(path, unread)
    if listed is None:
        return None
    paths = UniquePaths(source)
    files = [paths.distinct(file) for file in expand(listed, unread)]
    if not files:
        raise ValueError(f"{source} holds no files: name a folder or an archive that holds photographs")
    is_zip = any(isinstance(file.content, ZipMember) for file in listed)
    is_stream = is_zip and any(file.content == NESTED for file in files)  # archives in a zip must be unpacked
    return None if is_stream else files


def _folder(source: Path) -> list[SourceFile]:
    name = source.resolve().name
    paths = sorted((path.relative_to(source).as_posix(), path) for path in _walk(source))
    return [
        SourceFile(path=path, class_name=class_of(path, name), content=_role(file) or LocalFile(file))
        for path, file in paths
    ]


def _role(path: Path) -> NotTaken | None:
    """Returns why a file is not taken: a shard set has files beside its photographs."""
    if path.name in _SET_FILES or path.suffix in (".idx", ".before"):
        return NotTaken("file of a shard set") if (path.parent / MANIFEST).exists() else None
    return None


def _walk(source: Path) -> Iterator[Path]:
    """Yields all files below `source`; follows links to folders, except to a folder that the link is in."""

    def refuse(error: OSError) -> None:  # os.walk would skip an unreadable folder, and lose its files silently
        raise ValueError(f"cannot list {error.filename}: {error.strerror}")

    for folder, subfolders, names in os.walk(source, onerror=refuse, followlinks=True):
        above = {parent.resolve() for parent in (Path(folder), *Path(folder).parents)}
        above |= {parent for path in list(above) for parent in path.parents}
        subfolders[:] = [name for name in subfolders if Path(folder, name).resolve() not in above]
        yield from (Path(folder, name) for name in names)


def _archive(path: Path, unread: dict[str, int]) -> list[SourceFile] | None:
    """Returns the files of an archive; None if it is a stream. Raises ValueError."""
    head = read_head(path)
    if not is_tar(head):  # a tar that ends with a zip looks like a zip, too
        if is_compressed(head):
            return None
        if not (head.startswith(ZIP_MAGIC) or zipfile.is_zipfile(path)):
            raise ValueError(f"{path} is neither a folder nor an archive (.tar, .tar.gz, .zip) that holds photographs")
    with explaining_damage(str(path), None):
        files, problem = list_archive(LocalFile(path), head, path.name, unread)
        if problem:
            raise ReadError(problem)
    return files
