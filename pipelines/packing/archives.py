"""Lists the members of tars and zips. Archives inside a source are read as folders of their names."""

import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from posixpath import splitext
from zipfile import ZipInfo

from ..class_names import class_of
from .members import (
    ARCHIVE_DAMAGE,
    LocalFile,
    SourceFile,
    TarMember,
    UniquePaths,
    Unreadable,
    ZipMember,
    bytes_behind,
    check_zip_member,
    first_byte,
    open_zip,
    tar_members,
    zip_members,
)
from .unpacking import is_compressed
from .wds_samples import is_photograph, is_webdataset, shard_files, tar_files

ZIP_MAGIC = b"PK\x03\x04"
_HEAD = 512  # bytes by which the type of a file is known: the first header of a tar, with its checksum
_DEPTH = 4  # of archives in archives
NESTED = Unreadable("archive", "it lies in other archives: unpack it, or pack it by itself")
_COMPRESSED = Unreadable("archive", "it is compressed: unpack it, or pack it by itself")


def read_head(path: Path) -> bytes:
    """Returns a file's first bytes, by which its type is known."""
    with open(path, "rb") as file:
        return file.read(_HEAD)


def is_tar(head: bytes) -> bool:
    """True if a file that begins with these bytes is a tar; it may begin with zeros."""
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        return True
    except tarfile.TarError:
        return False
    return True


def list_archive(
    place: LocalFile | TarMember, head: bytes, name: str, unread: dict[str, int], folder: str = ""
) -> tuple[list[SourceFile], str]:
    """Returns the files of a tar or a zip up to where it is cut or damaged, and what is wrong with it ("" if nothing).

    `head` is its first bytes. `folder` is its place in the source, and the class of files that have none. `unread` gets
    the number of bytes before or behind its content, under its name.
    """
    problem = ""
    try:
        if is_tar(head):
            tar = TarMember(place.path, 0, place.path.stat().st_size) if isinstance(place, LocalFile) else place
            members, problem = tar_members(tar, unread, name)
            if is_webdataset(members):
                return [member.file for member in shard_files(tar.path, members, folder)], problem
            files = tar_files(tar.path, members, name)
        else:
            files = list(_zip_files(place, UniquePaths(name), name, unread))
    except ARCHIVE_DAMAGE as error:
        return [], str(error)
    if folder:
        own_class = class_of(f"{folder}/x")
        files = [replace(f, path=f"{folder}/{f.path}", class_name=f.class_name or own_class) for f in files]
    return files, problem


def expand(files: Iterable[SourceFile], unread: dict[str, int], depth: int = 0) -> Iterator[SourceFile]:
    """Yields the files, with the members of each archive among them in its place.

    An archive is a folder: NAME.tar/x has the path NAME/x. A member's class is its folder in the archive, or else the
    archive's name, as in ImageNet's tars, one for each class. An archive that cannot be read to its end is unreadable.
    `unread` gets the number of bytes before or behind the content of each archive, under its path.
    """
    for file in files:
        head = b"" if is_photograph(file.path) else _head_of(file)
        if head.startswith(ZIP_MAGIC) or is_tar(head):
            yield from _members_of(file, head, unread, depth)
        elif is_compressed(head):
            yield replace(file, content=_COMPRESSED)
        else:
            yield file


def _members_of(file: SourceFile, head: bytes, unread: dict[str, int], depth: int) -> Iterator[SourceFile]:
    """Yields the files of an archive, and the archive itself if it cannot be read, or not to its end."""
    place, folder = file.content, splitext(file.path)[0]
    if depth == _DEPTH or not isinstance(place, LocalFile | TarMember):
        yield replace(file, content=NESTED)
        return
    files, problem = list_archive(place, head, file.path, unread, folder)
    yield from expand(files, unread, depth + 1)
    if problem or not files:
        yield replace(file, content=Unreadable("damaged archive" if problem else "empty archive", problem))


def _zip_files(
    place: LocalFile | TarMember, paths: UniquePaths, name: str, unread: dict[str, int]
) -> Iterator[SourceFile]:
    """Yields the members of a zip, and before them those of the zips that were joined in front of it."""
    joined: list[tuple[LocalFile | TarMember, list[tuple[int, str, ZipInfo]]]] = []
    front, num_unread = 1, 0
    while front:
        try:
            archive = open_zip(place)
        except ARCHIVE_DAMAGE:
            if not joined:
                raise
            num_unread += front  # such as a program that unpacks the zip
            break
        num_unread += bytes_behind(archive)
        joined.append((place, list(zip_members(archive))))
        if front := first_byte(archive):
            place = TarMember(place.path, getattr(place, "offset", 0), front)
    if num_unread:
        unread[name] = num_unread
    for place, members in reversed(joined):
        for number, member, info in members:
            yield paths.add(member, check_zip_member(info) or ZipMember(place, number))


def _head_of(file: SourceFile) -> bytes:
    """Returns the first bytes of a regular file; empty if it cannot be read, which a worker reports."""
    content = file.content
    try:
        if isinstance(content, LocalFile):
            return read_head(content.path) if content.path.is_file() else b""
        if isinstance(content, TarMember):
            return content.open().read(_HEAD)
        if isinstance(content, ZipMember):
            archive = open_zip(content.zip)
            with archive.open(archive.infolist()[content.number]) as member:
                return member.read(_HEAD)
    except (*ARCHIVE_DAMAGE, RuntimeError):
        pass
    return b""
