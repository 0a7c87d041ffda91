"""Photographs in WebDataset shards, whose members share a name up to the first dot if they are parts of one sample."""

import json
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from posixpath import splitext

from PIL import Image

from ..imaging.decode import FORMATS
from ..text_file import decode_text
from .members import NotTaken, SourceFile, TarMember, UniquePaths, tar_contents

_UNMARKED = ("TGA", "PPM", "DIB")  # formats without a signature of their own
_MAX_PART_BYTES = 1 << 20  # of a cls or json part


@dataclass(frozen=True, kw_only=True)
class ShardFile:
    """A member of a shard: its name there, and the other parts of its sample that describe it.

    `parts` holds `cls`, and `json` if `pack` wrote it.
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


def shard_files(tar: Path, members: Sequence[tarfile.TarInfo], folder: str) -> list[ShardFile]:
    """Returns the members of a shard; other parts of a photograph's sample are not taken.

    Path and class are those of the json part if `pack` wrote it. Otherwise the path is FOLDER/MEMBER, and the
    class is that of the cls part, or the member's folder. A photograph's parts share its name up to the last dot; if
    there are none, they are those of its sample.
    """
    files = list(zip((member.name for member in members), tar_files(tar, members, str(tar)), strict=True))
    parts = _parts(files)
    photographs = {name for name, file in files if is_photograph(name) or _begins_as_image(file)}
    keys = {_key(name) for name in photographs}
    shard: list[ShardFile] = []
    for name, file in files:
        file = replace(file, path=f"{folder}/{file.path}" if folder else file.path)
        own_parts: dict[str, TarMember] = {}
        if name in photographs:
            own_parts = parts.get(splitext(name)[0]) or parts.get(_key(name)) or {}
        elif _key(name) in keys:
            file = replace(file, content=NotTaken("sidecar"))
        shard.append(_described(name, file, own_parts))
    return shard


def _described(name: str, file: SourceFile, parts: dict[str, TarMember]) -> ShardFile:
    facts = _packed_facts(parts["json"]) if "json" in parts else {}
    label = decode_text(parts["cls"].read(), file.path, errors="replace").strip() if "cls" in parts else file.class_name
    path = facts.get("path", file.path)
    return ShardFile(file=replace(file, path=path, class_name=facts.get("class", label)), name=name, parts=parts)


def tar_files(tar: Path, members: Sequence[tarfile.TarInfo], name: str) -> list[SourceFile]:
    """Returns the members of a plain archive of that name as source files."""
    paths = UniquePaths(name)
    contents = tar_contents(tar, members)
    return [paths.add(member.name, content) for member, content in zip(members, contents, strict=True)]


def _begins_as_image(file: SourceFile) -> bool:
    """True if the first bytes are the signature of an image format."""
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
    """Returns the first cls part, and the first json part that `pack` wrote, of each name up to its last dot."""
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
    """Returns path and class from a json part that `pack` wrote; empty for others."""
    try:
        facts = json.loads(part.read())
        if not facts.keys() >= {"path", "class", "original_size", "done"}:
            return {}
        named = {name: facts[name] for name in ("path", "class")}
        "".join(named.values()).encode(errors="surrogateescape")
        return named
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}
