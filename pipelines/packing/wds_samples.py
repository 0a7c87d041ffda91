"""Photographs in WebDataset shards, whose members share a name up to the first dot if they are parts of one sample."""

import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ..text_file import decode_text
from .members import SourceFile, TarMember, UniquePaths, Unreadable, check_tar_member

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".jp2", ".avif")
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
    return PurePosixPath(name).suffix.lower() in _SUFFIXES


def is_webdataset(members: Sequence[tarfile.TarInfo]) -> bool:
    """True if the first two members are parts of one sample, and not both of them photographs."""
    if len(members) < 2:
        return False
    first, second = members[0].name, members[1].name
    if first == second or (is_photograph(first) and is_photograph(second)):
        return False
    return _key(first) == _key(second)


def unique_photographs(
    shards: Iterable[tuple[Path, Iterable[tarfile.TarInfo]]],
) -> Iterator[tuple[Path, ShardPhotograph]]:
    """Yields the photographs of several tars, given with their members; those of repeated paths are unreadable."""
    taken: set[str] = set()
    for tar, members in shards:
        for photograph in photographs_in(tar, members):
            file = photograph.file
            if file.path in taken:
                duplicate = Unreadable("duplicate name", f"another shard holds {file.path} too")
                file = replace(file, path=f"{file.path}#{tar.stem}", content=duplicate)
            taken.add(file.path)
            yield tar, replace(photograph, file=file)


def photographs_in(tar: Path, members: Iterable[tarfile.TarInfo]) -> list[ShardPhotograph]:
    """Returns every member that is named like a photograph; samples without one come as unreadable.

    Path and class are those of the json part if a packer of ours wrote it. Otherwise the path is SHARD/MEMBER, and the
    class is that of the cls part, or the member's folder. A photograph's parts share its name up to the last dot; if
    there are none, they are those of its sample.
    """
    members = list(members)
    parts = _parts(tar, members)
    photographs: list[ShardPhotograph] = []
    keys_with_photograph: set[str] = set()
    for member, file in zip(members, tar_files(tar, members), strict=True):
        if is_photograph(member.name):
            key = _key(member.name)
            keys_with_photograph.add(key)
            own_parts = parts.get(_stem(member.name)) or parts.get(key) or {}
            photographs.append(_photograph(tar, member.name, file, own_parts))
    for key in dict.fromkeys(_key(member.name) for member in members):
        if key not in keys_with_photograph:
            missing = Unreadable("no photograph", "a sample of other parts")
            file = SourceFile(path=f"{tar.stem}/{key}", class_name="", content=missing)
            photographs.append(ShardPhotograph(file=file, name=key, parts={}))
    return photographs


def _photograph(tar: Path, name: str, file: SourceFile, parts: dict[str, TarMember]) -> ShardPhotograph:
    facts = _packed_facts(parts["json"]) if "json" in parts else {}
    label = decode_text(parts["cls"].read(), file.path, errors="replace").strip() if "cls" in parts else file.class_name
    path = facts.get("path", f"{tar.stem}/{file.path}")
    return ShardPhotograph(file=replace(file, path=path, class_name=facts.get("class", label)), name=name, parts=parts)


def tar_files(tar: Path, members: Iterable[tarfile.TarInfo]) -> list[SourceFile]:
    """Returns the members of a plain archive as source files."""
    paths = UniquePaths(str(tar))
    return [
        paths.add(member.name, check_tar_member(member) or TarMember(tar, member.offset_data, member.size))
        for member in members
    ]


def _key(name: str) -> str:
    """Returns the sample's key: the name up to its first dot."""
    from webdataset.tariterators import base_plus_ext  # loads torch

    base, _ = base_plus_ext(name)
    return name if base is None else str(base)


def _stem(name: str) -> str:
    """Returns the name up to its last dot."""
    return str(PurePosixPath(name).with_suffix(""))


def _parts(tar: Path, members: Iterable[tarfile.TarInfo]) -> dict[str, dict[str, TarMember]]:
    """Returns the first cls part, and the first json part of ours, of each name up to its last dot."""
    parts: dict[str, dict[str, TarMember]] = {}
    for member in members:
        kind = PurePosixPath(member.name).suffix.lower().removeprefix(".")
        if kind in ("cls", "json") and not check_tar_member(member) and member.size <= _MAX_PART_BYTES:
            part = TarMember(tar, member.offset_data, member.size)
            if kind == "cls" or _packed_facts(part):
                parts.setdefault(_stem(member.name), {}).setdefault(kind, part)
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
