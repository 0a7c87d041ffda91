"""Photographs in WebDataset shards, whose members share a name up to the first dot if they are parts of one sample."""

import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from posixpath import splitext

from PIL import Image

from ..imaging.decode import FORMATS
from ..text_file import decode_text
from .members import NotTaken, SourceFile, TarMember, UniquePaths, Unreadable, tar_contents

_UNMARKED = ("TGA", "PPM", "DIB")  # formats whose first bytes are also those of texts and numbers
_MAX_PART_BYTES = 1 << 20  # of a cls or json part


@dataclass(frozen=True, kw_only=True)
class ShardPhotograph:
    """A photograph in a shard: its name there, and the other parts of its sample that describe it.

    `parts` holds `cls`, and `json` if a packer of ours wrote it.
    """

    file: SourceFile
    name: str
    parts: dict[str, TarMember]


def is_photograph(name: str) -> bool:
    """True if a file is named like an image."""
    return splitext(name)[1].lower() in _suffixes()


@cache
def _suffixes() -> frozenset[str]:
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS)


def is_webdataset(members: Sequence[tarfile.TarInfo]) -> bool:
    """True if a photograph and another member are parts of one sample."""
    photographs = {_key(member.name) for member in members if is_photograph(member.name)}
    return any(_key(member.name) in photographs for member in members if not is_photograph(member.name))


def webdataset_files(tar: Path, members: Sequence[tarfile.TarInfo], folder: str) -> list[SourceFile]:
    """Returns the members of a shard at `folder` in a source; other parts of a photograph's sample are not taken."""
    photographs, others = _photographs_in(tar, members, folder)
    keys = {_key(photograph.name) for photograph in photographs}
    sidecars = [replace(file, content=NotTaken("sidecar")) if _key(name) in keys else file for name, file in others]
    return [*(photograph.file for photograph in photographs), *sidecars]


def unique_photographs(
    shards: Iterable[tuple[Path, Sequence[tarfile.TarInfo]]],
) -> Iterator[tuple[Path, ShardPhotograph]]:
    """Yields the photographs of several tars, given with their members; those of repeated paths are unreadable.

    A sample without a photograph follows as unreadable. Other parts follow as not taken.
    """
    taken: set[str] = set()
    for tar, members in shards:
        photographs, others = _photographs_in(tar, members, tar.stem)
        for photograph in photographs:
            file = photograph.file
            if file.path in taken:
                duplicate = Unreadable("duplicate name", f"another shard holds {file.path} too")
                file = replace(file, path=f"{file.path}#{tar.stem}", content=duplicate)
            taken.add(file.path)
            yield tar, replace(photograph, file=file)
        keys = {_key(photograph.name) for photograph in photographs}
        for name, file in others:
            is_first = (key := _key(name)) not in keys
            keys.add(key)
            missing = Unreadable("no photograph", "a sample of other parts")
            file = SourceFile(
                path=f"{tar.stem}/{key}", class_name="", content=missing if is_first else NotTaken("sidecar")
            )
            yield tar, ShardPhotograph(file=file, name=key, parts={})


def _photographs_in(
    tar: Path, members: Sequence[tarfile.TarInfo], folder: str
) -> tuple[list[ShardPhotograph], list[tuple[str, SourceFile]]]:
    """Returns every member that is a photograph by its name or its first bytes, and the others with their names.

    Path and class are those of the json part if a packer of ours wrote it. Otherwise the path is FOLDER/MEMBER, and the
    class is that of the cls part, or the member's folder. A photograph's parts share its name up to the last dot; if
    there are none, they are those of its sample.
    """
    files = [(member.name, file) for member, file in zip(members, tar_files(tar, members, str(tar)), strict=True)]
    parts = _parts(files)
    photographs: list[ShardPhotograph] = []
    others: list[tuple[str, SourceFile]] = []
    for name, file in files:
        path = f"{folder}/{file.path}" if folder else file.path
        if is_photograph(name) or _begins_as_image(file):
            own_parts = parts.get(splitext(name)[0]) or parts.get(_key(name)) or {}
            photographs.append(_photograph(name, replace(file, path=path), own_parts))
        else:
            others.append((name, replace(file, path=path)))
    return photographs, others


def _photograph(name: str, file: SourceFile, parts: dict[str, TarMember]) -> ShardPhotograph:
    facts = _packed_facts(parts["json"]) if "json" in parts else {}
    label = decode_text(parts["cls"].read(), file.path, errors="replace").strip() if "cls" in parts else file.class_name
    path = facts.get("path", file.path)
    return ShardPhotograph(file=replace(file, path=path, class_name=facts.get("class", label)), name=name, parts=parts)


def tar_files(tar: Path, members: Sequence[tarfile.TarInfo], name: str) -> list[SourceFile]:
    """Returns the members of a plain archive of that name as source files."""
    paths = UniquePaths(name)
    contents = tar_contents(tar, members)
    return [paths.add(member.name, content) for member, content in zip(members, contents, strict=True)]


def _begins_as_image(file: SourceFile) -> bool:
    """True if the first bytes are those of an image format that they tell."""
    if not isinstance(file.content, TarMember):
        return False
    with file.content.open() as stream:
        head = stream.read(32)
    is_text = head.isascii() and b"\0" not in head  # a caption may begin with BM
    accepts = [Image.OPEN[kind][1] for kind in FORMATS if kind not in _UNMARKED and kind in Image.OPEN]
    return not is_text and any(accept is not None and accept(head) is True for accept in accepts)


def _key(name: str) -> str:
    """Returns the sample's key: the name up to its first dot."""
    from webdataset.tariterators import base_plus_ext  # loads torch

    base, _ = base_plus_ext(name)
    return name if base is None else str(base)


def _parts(files: Iterable[tuple[str, SourceFile]]) -> dict[str, dict[str, TarMember]]:
    """Returns the first cls part, and the first json part of ours, of each name up to its last dot."""
    parts: dict[str, dict[str, TarMember]] = {}
    for name, file in files:
        (stem, suffix), part = splitext(name), file.content
        kind = suffix.lower().removeprefix(".")
        if kind not in ("cls", "json") or not isinstance(part, TarMember) or part.size > _MAX_PART_BYTES:
            continue
        if kind == "cls" or _packed_facts(part):
            parts.setdefault(stem, {}).setdefault(kind, part)
    return parts


def _packed_facts(part: TarMember) -> dict[str, str]:
    """Returns path and class from a json part that a packer of ours wrote, else nothing."""
    try:
        facts = json.loads(part.read())
        if not facts.keys() >= {"path", "class", "original_size", "done"}:
            return {}
        named = {name: facts[name] for name in ("path", "class")}
        "".join(named.values()).encode(errors="surrogateescape")
        return named
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}
