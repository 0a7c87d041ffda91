"""Shard sets: folders of WebDataset tars, their DALI indices and a manifest (docs/architecture.md has the format)."""

import csv
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from .files import atomic_write, sha256_of
from .packing.class_names import class_of
from .remote import RemotePath, place_of

FORMAT = 2
MANIFEST = "manifest.json"
REJECTS = "rejects.csv"
WORK = ".packing"  # the folder of a pack that is not finished

Store = Literal["jpeg", "lab"]
SUFFIXES: dict[Store, str] = {"jpeg": "jpg", "lab": "lab"}  # of the members that hold the pictures

_BYTES = "surrogateescape"
_AT_ONCE = 16  # index files that are read at a time: a server takes as long for one


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

    @property
    def widths_heights(self) -> list[tuple[int, int]]:
        """The samples' sizes."""
        return [(int(width), int(height)) for width, height in (size.split("x") for size in self.sizes.split())]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One photograph of a shard set: where it came from, and where its picture lies."""

    index: int
    key: str
    path: str
    class_name: str
    size: tuple[int, int]
    tar: Path | RemotePath
    offset: int
    num_bytes: int

    def stored(self) -> bytes:
        """The stored bytes: a JPEG, or what else `ShardSet.store` says."""
        return _read(self.tar, self.offset, self.num_bytes)


class ShardSet:
    """A packed set of photographs, read only. Samples are numbered 0 .. num_samples - 1 through all shards.

    `manifest` is what manifest.json says; `prior` (313,) is the share of each ab bin in the set's pixels, summing to 1.
    """

    def __init__(self, root: Path | RemotePath, manifest: dict[str, Any]) -> None:
        self.root = root
        self.manifest = manifest
        self.shards = [Shard(**shard) for shard in manifest["shards"]]
        self.prior: NDArray[np.float64] = np.asarray(manifest["ab_histogram"], dtype=np.float64)
        self.starts: NDArray[np.int64] = np.cumsum([0, *(shard.samples for shard in self.shards)])

    @classmethod
    def open(cls, root: str | os.PathLike[str]) -> "ShardSet":
        """The shard set in the folder `root`, or at that URL, its files' sizes checked against its manifest.

        Raises ValueError naming the shard when a file is missing or has another size: a stale index would make every
        reader return random bytes, silently.
        """
        folder = place_of(root)
        shards = cls.of_manifest(folder, cls.read_manifest(folder))
        for shard in shards.shards:
            shards._check_size(f"{shard.name}.tar", shard.bytes)
            shards._check_size(f"{shard.name}.idx", shard.index_bytes)
        return shards

    @classmethod
    def of_manifest(cls, root: Path | RemotePath, manifest: dict[str, Any]) -> "ShardSet":
        """The shard set as its manifest describes it. Raises ValueError when that makes no sense."""
        try:
            shards = cls(root, manifest)
            counts = [(shard.samples, len(shard.sizes.split())) for shard in shards.shards]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{root / MANIFEST} is damaged ({error!r}): pack again") from None
        if any(samples != sizes for samples, sizes in counts):
            raise ValueError(f"{root / MANIFEST} is damaged (sizes of some samples are missing): pack again")
        return shards

    @staticmethod
    def read_manifest(root: Path | RemotePath) -> dict[str, Any]:
        """What the manifest in the folder `root` says. Raises ValueError."""
        if root.exists() and not root.is_dir():
            raise ValueError(f"{root} is a file: name the folder of a shard set")
        if not root.is_dir():
            raise ValueError(f"there is no shard set at {root}: make one with 'photochrom pack PHOTOS {root}'")
        try:
            manifest: dict[str, Any] = json.loads((root / MANIFEST).read_text())
            version = manifest["format"]
        except FileNotFoundError:
            if (root / WORK).exists():
                raise ValueError(f"{root} holds an unfinished pack: run its command again") from None
            if (root / "train" / MANIFEST).exists():
                raise ValueError(f"{root} holds two shard sets: name {root / 'train'} or {root / 'test'}") from None
            raise ValueError(
                f"{root} is no shard set, it has no {MANIFEST}: make one with 'photochrom pack PHOTOS NEW_FOLDER' "
                "(an interrupted pack is started again by the same command; 'photochrom index' adopts shards of others)"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{root / MANIFEST} is damaged ({error!r}): pack again") from None
        if version != FORMAT:
            raise ValueError(f"{root} has shard format {version}, this photochrom reads format {FORMAT}: pack again")
        return manifest

    @property
    def num_samples(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def digest(self) -> str:
        """What identifies the set's samples and their order: a hash over the shards' hashes."""
        return hashlib.sha256(" ".join(shard.sha256 for shard in self.shards).encode()).hexdigest()

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Height and width (num_samples, 2) of every stored photograph."""
        widths_heights = [size for shard in self.shards for size in shard.widths_heights]
        return np.array(widths_heights, dtype=np.int64).reshape(-1, 2)[:, ::-1]

    @cached_property
    def store(self) -> Store:
        """How the photographs are kept: as JPEG (or whatever else shards of others hold), or as bytes of Lab."""
        return self.manifest["image"].get("store", "jpeg")

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """Where in its tar each stored picture begins, and its bytes (num_samples, 2)."""
        kind = SUFFIXES[self.store]
        return np.array([_parts(line)[kind][:2] for line in self._index_lines], dtype=np.int64).reshape(-1, 2)

    def shard_of(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of the shard that holds each sample."""
        return np.searchsorted(self.starts, index, side="right") - 1

    def tar(self, index: int) -> Path | RemotePath:
        """The path of the tar that holds a sample."""
        return self.root / f"{self.shards[int(self.shard_of(np.array(index)))].name}.tar"

    def place(self, index: int) -> str:
        """A sentence's worth of where a sample is: its number, tar, key and original path."""
        sample = self.sample(index)
        return f"sample {index} of {self.root} (in {sample.tar.name}, key {sample.key}, from {sample.path})"

    def sample(self, index: int) -> Sample:
        """The sample's key, origin and place. Raises IndexError outside 0 .. num_samples - 1."""
        if not 0 <= index < self.num_samples:
            raise IndexError(f"sample {index} of {self.num_samples} in {self.root}")
        tar = self.tar(index)
        parts = _parts(self._index_lines[index])
        offset, num_bytes, name = parts[SUFFIXES[self.store]]
        if "json" in parts:
            facts = json.loads(_read(tar, *parts["json"][:2]))
        else:  # from elsewhere
            label = _read(tar, *parts["cls"][:2]).decode(errors="replace").strip() if "cls" in parts else class_of(name)
            facts = {"path": f"{tar.stem}/{name}", "class": label}
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
    def _index_lines(self) -> list[str]:
        """One line per sample, over all shards; each index file begins with a header line."""
        files = [self.root / f"{shard.name}.idx" for shard in self.shards]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return [line for lines in pool.map(read_index_lines, files) for line in lines]

    def _check_size(self, name: str, size: int) -> None:
        path = self.root / name
        try:
            found = path.stat().st_size
        except FileNotFoundError:
            raise ValueError(f"{path} is missing from the shard set: restore it or pack again") from None
        if found != size:
            raise ValueError(f"{path} has {found} bytes where the manifest says {size}: restore it or pack again")


def index_text(lines: list[str]) -> str:
    """A DALI index (wds2idx format v1.2) of one line per sample."""
    return "\n".join([f"v1.2 {len(lines)}", *lines]) + "\n"


def write_index(tar: Path, lines: list[str]) -> None:
    """Writes a DALI index beside its tar."""
    with atomic_write(tar.with_suffix(".idx")) as file:
        file.write_text(index_text(lines))


def describe(tar: Path, sizes: list[tuple[int, int]]) -> Shard:
    """What the manifest says of a tar and the index beside it; `sizes` are its samples' (width, height)."""
    index = tar.with_suffix(".idx")
    return Shard(
        name=tar.stem,
        samples=len(sizes),
        bytes=tar.stat().st_size,
        sha256=sha256_of(tar),
        index_bytes=index.stat().st_size,
        index_sha256=sha256_of(index),
        sizes=" ".join(f"{width}x{height}" for width, height in sizes),
    )


def read_index_lines(index: Path | RemotePath) -> list[str]:
    """A DALI index's lines of samples; before them stands a header line."""
    return index.read_text().splitlines()[1:]


def write_manifest(root: Path, shards: list[Shard], **facts: Any) -> None:
    """Publishes the shard set: the manifest appears last, and at once."""
    manifest = {"format": FORMAT, "photochrom": __version__, **facts, "shards": [asdict(shard) for shard in shards]}
    manifest["sha256"] = manifest_digest(manifest)
    with atomic_write(root / MANIFEST) as file:
        file.write_text(json.dumps(manifest, indent=1) + "\n")


def manifest_digest(manifest: dict[str, Any]) -> str:
    """The hash of all that a manifest says, but for the hash itself."""
    said = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def write_rejects(root: Path, rejects: list[tuple[str, str, str]]) -> None:
    """Lists what is not in the shard set: path, reason and detail of each."""
    # File names are bytes to the system: those that are no UTF-8 are written as they are.
    with atomic_write(root / REJECTS) as file, open(file, "w", newline="", encoding="utf-8", errors=_BYTES) as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "reason", "detail"])
        writer.writerows(sorted(rejects))


def _parts(line: str) -> dict[str, tuple[int, int, str]]:
    """Offset, size and name by kind of one index line; the names of shards from elsewhere are percent-encoded in it."""
    words = line.split(" ")
    return {
        words[i]: (int(words[i + 1]), int(words[i + 2]), unquote(words[i + 3], errors=_BYTES))
        for i in range(0, len(words), 4)
    }


def _read(path: Path | RemotePath, offset: int, size: int) -> bytes:
    if isinstance(path, RemotePath):
        return bytes(path.read_ranges([offset], [size])[0])
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)
