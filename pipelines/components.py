"""WebDataset's convention: members of a tar that share a name up to its first dot are the parts of one sample."""

import json
import re
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from .members import Entry, Names, Slice, Unfit, unfit

PHOTOGRAPH_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".jp2", ".avif")

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


@dataclass(kw_only=True)
class _Sample:
    parts: dict[str, Slice] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)  # path and class
    has_photograph: bool = False


def is_webdataset(members: Sequence[tarfile.TarInfo]) -> bool:
    """Whether the first two members are parts of one sample."""
    first, second = [_key(member.name) for member in members[:2]] if len(members) > 1 else ("", None)
    return first == second and members[0].name != members[1].name


def photographs_in(tar: Path, members: Iterable[tarfile.TarInfo]) -> list[PackedPhotograph]:
    """Every member that is named as a photograph, and every sample that has none, which is not to be read.

    Paths and classes are those that a packer of ours has noted; else the path is the shard's name and the member's, and
    the class what the sample's cls part says, or the member's folder.
    """
    members = list(members)
    samples = _samples(tar, members)
    found: list[PackedPhotograph] = []
    for member, entry in zip(members, tar_entries(tar, members), strict=True):
        sample = samples[_key(member.name)]
        if PurePosixPath(member.name).suffix.lower() in PHOTOGRAPH_SUFFIXES:
            sample.has_photograph = True
            path = sample.facts.get("path", f"{tar.stem}/{entry.path}")
            described = replace(entry, path=path, class_name=sample.facts.get("class", entry.class_name))
            found.append(PackedPhotograph(entry=described, name=member.name, parts=sample.parts))
    for key, sample in samples.items():
        if not sample.has_photograph:
            none = Unfit("no photograph", "a sample of other parts")
            entry = Entry(path=f"{tar.stem}/{key}", class_name="", content=none)
            found.append(PackedPhotograph(entry=entry, name=key, parts={}))
    return found


def tar_entries(tar: Path, members: Iterable[tarfile.TarInfo]) -> list[Entry]:
    """The members as they are, whatever they are."""
    names = Names(str(tar))
    return [
        names.entry(member.name, unfit(member) or Slice(tar, member.offset_data, member.size)) for member in members
    ]


def _key(name: str) -> str:
    match = _PARTS.fullmatch(name)
    return match[1] if match else name


def _samples(tar: Path, members: Iterable[tarfile.TarInfo]) -> dict[str, _Sample]:
    """All samples by key, with what their parts say."""
    samples: dict[str, _Sample] = {}
    for member in members:
        sample = samples.setdefault(_key(member.name), _Sample())
        kind = PurePosixPath(member.name).suffix.lower().removeprefix(".")
        if kind not in ("json", "cls") or unfit(member) or member.size > _LARGEST_PART:
            continue
        part = Slice(tar, member.offset_data, member.size)
        text = part.read().decode(errors="replace")
        if kind == "cls":
            sample.parts["cls"] = part
            sample.facts.setdefault("class", text.strip())
        elif facts := _our_facts(text):
            sample.parts["json"] = part
            sample.facts |= facts
    return samples


def _our_facts(text: str) -> dict[str, str]:
    """Path and class from a json part, if a packer of ours has written it."""
    try:
        facts = json.loads(text)
        return {name: facts[name] for name in ("path", "class") if isinstance(facts[name], str)}
    except (ValueError, KeyError, TypeError):
        return {}
