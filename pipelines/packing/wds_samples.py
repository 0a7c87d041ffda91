"""WebDataset's convention: members of a tar that share a name up to its first dot are the parts of one sample."""

import json
import re
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from .members import Entry, Slice, Unfit, UniquePaths, unfit

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".jp2", ".avif")

_PARTS = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)
_LARGEST_PART = 1 << 20  # bytes of a label or of facts


@dataclass(frozen=True, kw_only=True)
class PackedPhotograph:
    """A photograph in a shard: its name there, and the parts of its sample that say what it is.

    `parts` holds `cls`, and `json` if it is one that a packer of ours has written.
    """

    entry: Entry
    name: str
    parts: dict[str, Slice]


def is_photograph(name: str) -> bool:
    """Whether a file is named as one."""
    return PurePosixPath(name).suffix.lower() in _SUFFIXES


def is_webdataset(members: Sequence[tarfile.TarInfo]) -> bool:
    """Whether the first two members are parts of one sample, not both of them photographs."""
    if len(members) < 2:
        return False
    first, second = members[0].name, members[1].name
    return _key(first) == _key(second) and first != second and not (is_photograph(first) and is_photograph(second))


def photographs_in(tar: Path, members: Iterable[tarfile.TarInfo]) -> list[PackedPhotograph]:
    """Every member that is named as a photograph, and every sample that has none, which is not to be read.

    Paths and classes are those that a packer of ours has noted; else the path is the shard's name and the member's, and
    the class what the sample's cls part says, or the member's folder. Where names have more dots, the parts that belong
    to a photograph are those that share its name up to the last one; if there are none, those of the whole sample.
    """
    members = list(members)
    parts = _parts(tar, members)
    found: list[PackedPhotograph] = []
    with_photograph: set[str] = set()
    for member, entry in zip(members, tar_entries(tar, members), strict=True):
        if is_photograph(member.name):
            key, stem = _key(member.name), _stem(member.name)
            with_photograph.add(key)
            ours = parts.get(stem) or parts.get(key) or {}
            facts = _our_facts(ours["json"]) if "json" in ours else {}
            label = ours["cls"].read().decode(errors="replace").strip() if "cls" in ours else entry.class_name
            path = facts.get("path", f"{tar.stem}/{entry.path}")
            described = replace(entry, path=path, class_name=facts.get("class", label))
            found.append(PackedPhotograph(entry=described, name=member.name, parts=ours))
    for key in dict.fromkeys(_key(member.name) for member in members):
        if key not in with_photograph:
            none = Unfit("no photograph", "a sample of other parts")
            entry = Entry(path=f"{tar.stem}/{key}", class_name="", content=none)
            found.append(PackedPhotograph(entry=entry, name=key, parts={}))
    return found


def tar_entries(tar: Path, members: Iterable[tarfile.TarInfo]) -> list[Entry]:
    """The members as they are, whatever they are."""
    names = UniquePaths(str(tar))
    return [
        names.entry(member.name, unfit(member) or Slice(tar, member.offset_data, member.size)) for member in members
    ]


def _key(name: str) -> str:
    """Up to the first dot."""
    match = _PARTS.fullmatch(name)
    return match[1] if match else name


def _stem(name: str) -> str:
    """Up to the last dot."""
    return str(PurePosixPath(name).with_suffix(""))


def _parts(tar: Path, members: Iterable[tarfile.TarInfo]) -> dict[str, dict[str, Slice]]:
    """The cls parts, and the json parts of ours, by their names up to the last dot; of equal names the first."""
    parts: dict[str, dict[str, Slice]] = {}
    for member in members:
        kind = PurePosixPath(member.name).suffix.lower().removeprefix(".")
        if kind in ("cls", "json") and not unfit(member) and member.size <= _LARGEST_PART:
            part = Slice(tar, member.offset_data, member.size)
            if kind == "cls" or _our_facts(part):
                parts.setdefault(_stem(member.name), {}).setdefault(kind, part)
    return parts


def _our_facts(part: Slice) -> dict[str, str]:
    """Path and class from a json part, if a packer of ours has written it."""
    try:
        facts = json.loads(part.read())
        if not facts.keys() >= {"path", "class", "original_size", "done"}:
            return {}
        named = {name: facts[name] for name in ("path", "class")}
        "".join(named.values()).encode(errors="surrogateescape")
        return named
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}
