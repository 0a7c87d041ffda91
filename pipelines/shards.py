"""Reads shard sets: folders of WebDataset tars, their DALI indices and a manifest (format: docs/architecture.md)."""

import hashlib
import math
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from .class_names import class_of
from .remote import RemotePath, open_folder
from .structured import MAX_BYTES, check_counts, parse_json, read_bytes, read_json, validated
from .text_file import decode_text

FORMAT = 2
MANIFEST = "manifest.json"
REJECTS = "rejects.csv"
WORK = ".packing"  # the folder of a pack that is not finished

Store = Literal["jpeg", "lab"]
SUFFIXES: dict[Store, str] = {"jpeg": "jpg", "lab": "lab"}  # of the members that hold the photographs

_MAX_MANIFEST_BYTES = 1 << 28  # that of 25 million photographs
_NUM_BINS = 313
_FILE_NAME = re.compile(r"(?!\.\.?$)[^/\0]+")
_SIZES = re.compile(r"(?:[1-9][0-9]{0,5}x[1-9][0-9]{0,5}(?: (?=[1-9])|$))*")
_INDEX_LINE = re.compile(r"(?:(?:^| )[!-~]+ [0-9]{1,18} [0-9]{1,18} [!-~]+)+")
_INDEX_THREADS = 16  # index files read at a time: reading one from a server is mostly waiting


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar and its index, as the manifest describes them.

    `sizes` holds the samples' widths and heights in pixels, as "384x288 288x402 ...": crop windows are drawn from them
    before anything is decoded.
    """

    name: str
    samples: int
    bytes: int
    sha256: str
    index_bytes: int
    index_sha256: str
    sizes: str

    def __post_init__(self) -> None:
        if not _FILE_NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is not the name of a file in the set's folder")
        if not _SIZES.fullmatch(self.sizes) or self.sizes.count("x") != self.samples:
            raise ValueError(f"sizes of some samples of {self.name} are missing")

    @property
    def widths_heights(self) -> list[tuple[int, int]]:
        """The samples' (width, height)."""
        return [(int(width), int(height)) for width, height in (size.split("x") for size in self.sizes.split())]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One photograph of a shard set: its origin, and where its bytes are. `size` is (width, height)."""

    index: int
    key: str
    path: str
    class_name: str
    size: tuple[int, int]
    tar: Path | RemotePath
    offset: int
    num_bytes: int

    def read(self) -> bytes:
        """Returns the stored bytes: a JPEG, or Lab if `ShardSet.store` is "lab"."""
        return _read(self.tar, self.offset, self.num_bytes)


@dataclass(frozen=True, kw_only=True)
class _ImageSettings:
    store: Store = "jpeg"
    class_by_tar: bool = False  # of shards from elsewhere, where samples have neither labels nor folders


@dataclass(frozen=True, kw_only=True)
class _Counts:
    grey: int
    duplicates: int
    dropped: dict[str, int]
    rejected: dict[str, int]

    def __post_init__(self) -> None:
        check_counts(self, "grey", "duplicates", "dropped", "rejected")


@dataclass(frozen=True, kw_only=True)
class _Manifest:
    """The parts of a manifest that are used."""

    shards: list[Shard]
    ab_histogram: list[float]
    image: _ImageSettings
    counts: _Counts
    classes: dict[str, int]

    def __post_init__(self) -> None:
        if not any(shard.samples for shard in self.shards):
            raise ValueError("it has no photographs")
        if len({shard.name for shard in self.shards}) < len(self.shards):
            raise ValueError("two shards have one name")
        if len(self.ab_histogram) != _NUM_BINS or not all(0 <= share < math.inf for share in self.ab_histogram):
            raise ValueError(f"ab_histogram is not {_NUM_BINS} shares of colours")
        check_counts(self, "classes")


class ShardSet:
    """A packed set of photographs, read only. Samples are numbered 0 .. num_samples - 1 through all shards.

    `manifest` is the content of manifest.json. `prior` (313,) is the share of each ab bin in the set's pixels; it sums
    to 1.
    """

    def __init__(self, root: Path | RemotePath, manifest: dict[str, Any]) -> None:
        self.root = root
        self.manifest = manifest
        self.shards = [Shard(**shard) for shard in manifest["shards"]]
        self.prior: NDArray[np.float64] = np.asarray(manifest["ab_histogram"], dtype=np.float64)
        self.starts: NDArray[np.int64] = np.cumsum([0, *(shard.samples for shard in self.shards)])

    @classmethod
    def open(cls, root: str | os.PathLike[str]) -> "ShardSet":
        """Opens the shard set in a folder or at a URL, and checks its files' sizes against the manifest.

        Raises ValueError naming the shard when a file is missing or has another size: with a stale index, every reader
        would return random bytes, silently.
        """
        folder = open_folder(root)
        shards = cls.from_manifest(folder, cls.read_manifest(folder))
        for shard in shards.shards:
            shards._check_size(f"{shard.name}.tar", shard.bytes)
            shards._check_size(f"{shard.name}.idx", shard.index_bytes)
        return shards

    @classmethod
    def from_manifest(cls, root: Path | RemotePath, manifest: dict[str, Any]) -> "ShardSet":
        """Makes the shard set that a manifest describes. Raises ValueError when the manifest is damaged."""
        try:
            facts = asdict(validated(_Manifest, manifest, "its content"))
            for name in ("image", "counts"):  # they hold more than is used here
                facts[name] = manifest[name] | {key: facts[name][key] for key in manifest[name].keys() & facts[name]}
            return cls(root, manifest | facts)
        except ValueError as error:
            raise ValueError(f"{root / MANIFEST} is damaged ({error}): pack again") from None

    @staticmethod
    def read_manifest(root: Path | RemotePath) -> dict[str, Any]:
        """Returns the content of the manifest in the folder `root`. Raises ValueError."""
        if root.exists() and not root.is_dir():
            raise ValueError(f"{root} is a file: name the folder of a shard set")
        if not root.is_dir():
            raise ValueError(f"there is no shard set at {root}: make one with 'photochrom pack PHOTOS {root}'")
        try:
            manifest = read_json(root / MANIFEST, _MAX_MANIFEST_BYTES)
        except FileNotFoundError:
            raise ValueError(_without_manifest(root)) from None
        except ValueError as error:
            raise ValueError(f"{error}: restore it, or pack again") from None
        if not isinstance(manifest, dict) or "format" not in manifest:
            raise ValueError(f"{root / MANIFEST} is damaged (it has no format): pack again")
        if manifest["format"] != FORMAT:
            version = f"{manifest['format']!r:.40}"
            raise ValueError(f"{root} has shard format {version}, this photochrom reads format {FORMAT}: pack again")
        return manifest

    @property
    def num_samples(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def digest(self) -> str:
        """A hash over the shards' hashes, which identifies the set's samples and their order."""
        return hashlib.sha256(" ".join(shard.sha256 for shard in self.shards).encode()).hexdigest()

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Height and width (num_samples, 2) of every stored photograph."""
        widths_heights = [size for shard in self.shards for size in shard.widths_heights]
        return np.array(widths_heights, dtype=np.int64).reshape(-1, 2)[:, ::-1]

    @cached_property
    def store(self) -> Store:
        """The format of stored photographs: "jpeg" (shards from elsewhere also hold others), or "lab" in bytes."""
        return self.manifest["image"].get("store", "jpeg")

    @cached_property
    def byte_ranges(self) -> NDArray[np.int64]:
        """Offset in its tar and number of bytes (num_samples, 2) of every stored photograph."""
        find = re.compile(rf"(?:[!-~]+ [0-9]+ [0-9]+ [!-~]+ )*?{self._kind} ([0-9]+) ([0-9]+) ").match
        matches = (find(line) for lines in self._index_lines for line in lines)
        texts = [match.groups() if match else ("0", "9" * 18) for match in matches]
        ranges = np.array(texts, dtype="U18").astype(np.int64).reshape(-1, 2)
        num_bytes = np.repeat([shard.bytes for shard in self.shards], np.diff(self.starts))
        if len(outside := np.flatnonzero(ranges.sum(axis=1) > num_bytes)):
            raise self._damaged_index(int(self.shard_of(outside[0])))
        return ranges

    @property
    def name(self) -> str:
        """The set's folder or URL, for messages."""
        return str(self.root)

    @property
    def set_sizes(self) -> tuple[int, ...]:
        """The number of samples in each set that this one joins: in all of it, unless it is a JoinedShardSet."""
        return (self.num_samples,)

    @property
    def draws(self) -> tuple[int, ...]:
        """The number of samples of each of these sets that an epoch of training draws."""
        return self.set_sizes

    @cached_property
    def tars(self) -> list[Path | RemotePath]:
        """The paths of all tars."""
        return [self.folder(number) / f"{shard.name}.tar" for number, shard in enumerate(self.shards)]

    def folder(self, shard: int) -> Path | RemotePath:
        """Returns the folder of a shard, by the shard's number."""
        return self.root

    def shard_of(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the number of the shard that holds each sample."""
        return np.searchsorted(self.starts, index, side="right") - 1

    def tar(self, index: int) -> Path | RemotePath:
        """Returns the path of the tar that holds a sample."""
        return self.tars[int(self.shard_of(np.array(index)))]

    def describe_sample(self, index: int) -> str:
        """Returns a sample's number, tar, key and original path, for messages."""
        sample = self.sample(index)
        folder = self.folder(int(self.shard_of(np.array(index))))
        return f"sample {index} of {folder} (in {sample.tar.name}, key {sample.key}, from {sample.path})"

    def sample(self, index: int) -> Sample:
        """Returns a sample's origin and where its bytes are. Raises IndexError outside 0 .. num_samples - 1."""
        if not 0 <= index < self.num_samples:
            raise IndexError(f"sample {index} of {self.num_samples} in {self.name}")
        number = int(self.shard_of(np.array(index)))
        tar = self.tars[number]
        members = self._members(number, self._index_lines[number][index - int(self.starts[number])])
        offset, num_bytes, name = members[self._kind]
        if "json" in members:
            facts = parse_json(_read(tar, *members["json"][:2]), f"the origin of {name} in {tar}")
        else:  # a shard from elsewhere
            label = class_of(name) or (tar.stem if self.manifest["image"].get("class_by_tar") else "")
            if "cls" in members:
                label = decode_text(_read(tar, *members["cls"][:2]), name, errors="replace").strip()
            facts = {"path": f"{tar.stem}/{name}", "class": label}
        if not (isinstance(facts, dict) and all(isinstance(facts.get(key), str) for key in ("path", "class"))):
            raise ValueError(f"{tar} is damaged (the origin of {name} has no path and class): pack again")
        height, width = self.sizes[index].tolist()
        return Sample(
            index=index,
            key=str(PurePosixPath(name).with_suffix("")),
            path=facts["path"],
            class_name=facts["class"],
            size=(width, height),
            tar=tar,
            offset=offset,
            num_bytes=num_bytes,
        )

    @cached_property
    def _kind(self) -> str:
        """The kind of members that hold the photographs."""
        return SUFFIXES[self.store]

    @cached_property
    def _index_lines(self) -> list[list[str]]:
        """One line per sample of each shard."""
        files = [self.folder(number) / f"{shard.name}.idx" for number, shard in enumerate(self.shards)]
        with ThreadPoolExecutor(_INDEX_THREADS) as pool:
            return list(pool.map(read_index_lines, files, self.shards))

    def _members(self, shard: int, line: str) -> dict[str, tuple[int, int, str]]:
        """Returns offset, size and name by kind of one index line; shards from elsewhere percent-encode names."""
        words = line.split(" ")
        members = {
            words[i]: (int(words[i + 1]), int(words[i + 2]), unquote(words[i + 3], errors="surrogateescape"))
            for i in range(0, len(words), 4)
        }
        num_bytes = self.shards[shard].bytes
        is_sound = all(
            offset + size <= num_bytes and (kind == self._kind or size <= MAX_BYTES)
            for kind, (offset, size, _) in members.items()
        )
        if self._kind not in members or not is_sound:
            raise self._damaged_index(shard)
        return members

    def _damaged_index(self, shard: int) -> ValueError:
        file = self.folder(shard) / f"{self.shards[shard].name}.idx"
        return ValueError(f"{file} is damaged (a sample has no {self._kind} within the tar): pack again")

    def _check_size(self, name: str, size: int) -> None:
        path = self.root / name
        try:
            size_now = path.stat().st_size
        except FileNotFoundError:
            raise ValueError(f"{path} is missing from the shard set: restore it or pack again") from None
        if size_now != size:
            raise ValueError(f"{path} has {size_now} bytes where the manifest says {size}: restore it or pack again")


def read_index_lines(index: Path | RemotePath, shard: Shard) -> list[str]:
    """Returns the lines of samples of a shard's DALI index, without its header line. Raises ValueError."""
    lines = read_bytes(index, shard.index_bytes).decode("latin-1").split("\n")[1:-1]
    if len(lines) != shard.samples or not all(map(_INDEX_LINE.fullmatch, lines)):
        raise ValueError(f"{index} is damaged (it does not describe {shard.samples:,} samples): pack again")
    return lines


def _without_manifest(root: Path | RemotePath) -> str:
    """Returns why the folder `root` has no manifest, and what to do."""
    if (root / WORK).exists():
        return f"{root} holds an unfinished pack: run its command again"
    if (root / "train" / MANIFEST).exists():
        return f"{root} holds two shard sets: name {root / 'train'} or {root / 'test'}"
    return (
        f"{root} is not a shard set, it has no {MANIFEST}: make one with 'photochrom pack PHOTOS NEW_FOLDER' "
        "(for shards of other tools use 'photochrom index')"
    )


def _read(path: Path | RemotePath, offset: int, size: int) -> bytes:
    if isinstance(path, RemotePath):
        return bytes(path.read_ranges([offset], [size])[0])
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)
