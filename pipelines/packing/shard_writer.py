"""Writes one shard set from outcomes in order, and goes on where an interrupted one stood.

A shard is made in a working folder, in the background checked, and moved into the set when it is whole and durable; a
journal then says what it holds and up to which place the source has been read. So a set without its last journals is
the beginning of itself.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files import atomic_write, sync
from ..imaging.decode import Rejected
from ..shards import SUFFIXES, Shard, Store, describe
from .dali_check import Samples
from .process_image import BEFORE_ALL, EncodedImage, ProcessedFile, SortKey
from .tar_writer import TarShard, without

MAX_SHARD_BYTES = 1 << 29  # a shard that has grown so large takes no more: two are on their way at any time

AbCounts = NDArray[np.int64]
Check = Callable[[Samples], dict[int, str]]


@dataclass(kw_only=True)
class PackStats:
    """What became of files: of those up to one place that follow the last shard's, or of all.

    `ab_counts` (65536,) counts the colours of all stored photographs, numbered as in EncodedImage.
    """

    rejects: list[tuple[str, str, str]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    contents: list[str] = field(default_factory=list)
    num_packed: int = 0
    num_grey: int = 0
    num_duplicates: int = 0
    ab_counts: AbCounts = field(default_factory=lambda: np.zeros(65536, dtype=np.int64))

    @property
    def rejected(self) -> Counter[str]:
        return Counter(reason for _, reason, _ in self.rejects)

    @property
    def num_files(self) -> int:
        return self.num_packed + self.dropped.total() + len(self.rejects)

    def reject(self, path: str, reason: str, detail: str) -> None:
        self.rejects.append((path, reason, detail))

    def store(self, outcome: ProcessedFile, photo: EncodedImage) -> None:
        self.num_packed += 1
        self.num_grey += photo.is_grey
        self.classes[outcome.class_name] += 1
        self.contents.append(outcome.content_hash)
        self.ab_counts[photo.ab_codes] += photo.ab_counts

    def add(self, other: "PackStats") -> None:
        self.rejects += other.rejects
        self.dropped += other.dropped
        self.classes += other.classes
        self.contents += other.contents
        self.num_packed += other.num_packed
        self.num_grey += other.num_grey
        self.num_duplicates += other.num_duplicates
        self.ab_counts += other.ab_counts

    def manifest_facts(self) -> dict[str, Any]:
        """Returns the statistics that a manifest holds."""
        from ...losses.quantization import ab_histogram  # loads torch

        return {
            "counts": {
                "packed": self.num_packed,
                "grey": self.num_grey,
                "duplicates": self.num_duplicates,
                "dropped": dict(sorted(self.dropped.items())),
                "rejected": dict(sorted(self.rejected.items())),
            },
            "classes": dict(sorted(self.classes.items())),
            "ab_histogram": ab_histogram(self.ab_counts.reshape(256, 256)).tolist(),
        }

    def figures(self, shards: list[Shard]) -> dict[str, Any]:
        """What summary.json says of it, and of the shards that came of it."""
        return {
            "num_rejected": len(self.rejects),
            "num_dropped": self.dropped.total(),
            "num_duplicates": self.num_duplicates,
            "dropped": dict(self.dropped),
            "rejected": dict(self.rejected),
            "num_shards": len(shards),
            "bytes": sum(shard.bytes for shard in shards),
        }

    def as_json(self) -> dict[str, Any]:
        cells = np.flatnonzero(self.ab_counts)
        facts = {name: value for name, value in vars(self).items() if name != "ab_counts"}
        return facts | {"ab_cells": cells.tolist(), "ab_counts": self.ab_counts[cells].tolist()}

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> "PackStats":
        counts = np.zeros(65536, dtype=np.int64)
        counts[facts.pop("ab_cells")] = facts.pop("ab_counts")
        rejects = [(path, reason, detail) for path, reason, detail in facts.pop("rejects")]
        dropped, classes = Counter(facts.pop("dropped")), Counter(facts.pop("classes"))
        return cls(rejects=rejects, ab_counts=counts, dropped=dropped, classes=classes, **facts)


@dataclass(kw_only=True)
class _OpenShard:
    """The shard that is being written, and what its samples are, without their bytes."""

    file: TarShard
    samples: list[tuple[ProcessedFile, EncodedImage]] = field(default_factory=list)


class ShardWriter:
    """Adds outcomes, in the order of their places, to the set in `root`.

    What is not finished is kept in the folder `work`, on the same disk. In the `background`, `check`, if there is one,
    decodes each finished shard and names the samples that fail; they become rejects. `end` is the place up to which
    nothing need be added any more: what is added up to it is ignored. `store` says what outcomes hold.
    """

    def __init__(
        self,
        root: Path,
        work: Path,
        *,
        shard_samples: int,
        keep_grey: bool,
        drop_duplicates: bool,
        check: Check | None,
        background: Executor,
        store: Store = "jpeg",
    ) -> None:
        root.mkdir(exist_ok=True)
        work.mkdir(exist_ok=True)
        self._root, self._work, self._check = root, work, check
        self._suffix = SUFFIXES[store]
        self._shard_samples, self._keep_grey, self._drop_duplicates = shard_samples, keep_grey, drop_duplicates
        self.shards: list[Shard] = []
        self.end = BEFORE_ALL
        self.tally = PackStats()  # of all up to `end`, and at last of all
        self._resume()
        self._contents = {bytes.fromhex(content)[:16] for content in self.tally.contents}
        self._rest = PackStats()  # what is in no shard, since the last one
        self._open: _OpenShard | None = None
        self._next = 1 + int(self.shards[-1].name.removeprefix("photos-")) if self.shards else 0
        self._background = background
        self._pending: Future[Callable[[], None]] | None = None

    def add(self, outcome: ProcessedFile) -> None:
        if outcome.sort_key <= self.end:
            return
        result = outcome.result
        if isinstance(result, Rejected):
            self._rest.reject(outcome.path, result.reason, result.detail)
        elif result.is_grey and not self._keep_grey:
            self._rest.dropped["grey"] += 1
        elif self._is_duplicate(outcome) and self._drop_duplicates:
            self._rest.dropped["duplicate"] += 1
        else:
            self._store(outcome, result)

    def finish(self) -> None:
        """Finishes the last shard; then `shards` and `tally` describe the whole set."""
        if self._open:
            self._seal()
        self._settle()
        self.tally.add(self._rest)

    def close(self) -> None:
        """Ends, and removes what is not finished."""
        if self._open:
            with suppress(OSError):  # what is not written yet may find no space
                self._open.file.close()
        if self._pending and not self._pending.cancel():
            wait([self._pending])  # its files are in use
        for path in (*self._work.glob("photos-*.tar"), *self._work.glob("photos-*.idx")):
            path.unlink()

    def _resume(self) -> None:
        """Takes over the shards that have a journal, and removes others."""
        while (journal := self._journal(len(self.shards))).exists():
            facts = json.loads(journal.read_text())
            self.shards.append(Shard(**facts["shard"]))
            self.end = (facts["end"][0], facts["end"][1])
            self.tally.add(PackStats.from_json(facts["tally"]))
        known = {shard.name for shard in self.shards}
        for path in self._root.glob("photos-*"):
            if path.stem not in known:
                path.unlink()
        for shard in self.shards:
            if not (tar := self._root / f"{shard.name}.tar").exists() or tar.stat().st_size != shard.bytes:
                raise ValueError(
                    f"{tar} is not as the interrupted pack has left it: remove {self._root}, and pack anew"
                )

    def _journal(self, number: int) -> Path:
        return self._work / f"photos-{number:06d}.json"

    def _is_duplicate(self, outcome: ProcessedFile) -> bool:
        content = bytes.fromhex(outcome.content_hash)[:16]
        if content not in self._contents:
            self._contents.add(content)
            return False
        self._rest.num_duplicates += 1
        return True

    def _store(self, outcome: ProcessedFile, photo: EncodedImage) -> None:
        if self._open is None:
            self._open = _OpenShard(file=TarShard(tar=self._work / f"photos-{self._next:06d}.tar"))
            self._next += 1
        parts = {self._suffix: photo.data, "json": _facts(outcome, photo)}
        self._open.file.add(key_of(outcome.path), **parts)
        self._open.samples.append((replace(outcome, result=Rejected("")), replace(photo, data=b"")))
        if len(self._open.samples) == self._shard_samples or self._open.file.size >= MAX_SHARD_BYTES:
            self._seal()

    def _seal(self) -> None:
        """Ends the shard that is being written; the rest is done in the background, while the next one grows."""
        assert self._open is not None
        shard, self._open = self._open, None
        shard.file.finish()
        self._settle()
        rest, self._rest = self._rest, PackStats()
        self._pending = self._background.submit(self._checked, shard.file, shard.samples, rest)

    def _settle(self) -> None:
        """Publishes the shard before, when it is ready."""
        if self._pending is not None:
            publish = self._pending.result()
            self._pending = None
            publish()

    def _checked(
        self, file: TarShard, samples: list[tuple[ProcessedFile, EncodedImage]], tally: PackStats
    ) -> Callable[[], None]:
        """Runs in the background: lets DALI decode the shard, and describes it; returns what publishes it."""
        end = samples[-1][0].sort_key
        sizes = [photo.size for _, photo in samples]
        if self._check and (refused := self._check(Samples(tar=file.tar, lines=file.lines, sizes=sizes))):
            for number, problem in refused.items():
                tally.reject(samples[number][0].path, "refused by DALI", problem)
                tally.contents.append(samples[number][0].content_hash)  # its copies are copies all the same
            file = without(file, refused)
            samples = [sample for number, sample in enumerate(samples) if number not in refused]
        shard = describe(file.tar, [photo.size for _, photo in samples])
        for outcome, photo in samples:
            tally.store(outcome, photo)
        sync(file.tar)
        return lambda: self._publish(shard, end, tally)

    def _publish(self, shard: Shard, end: SortKey, tally: PackStats) -> None:
        if shard.samples:
            for suffix in ("tar", "idx"):
                name = f"{shard.name}.{suffix}"
                (self._work / name).rename(self._root / name)
            sync(self._root)
            with atomic_write(self._journal(len(self.shards))) as file:
                file.write_text(json.dumps({"end": end, "shard": asdict(shard), "tally": tally.as_json()}))
            self.shards.append(shard)
            self.end = end
            self.tally.add(tally)
        else:
            self._rest.add(tally)  # DALI refused all of it


def key_of(path: str) -> str:
    """A name for the sample: readable, ASCII, without dots, and unique because it ends in a hash of the whole path."""
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(path).stem).strip("-")[:60]
    return f"{slug}-{hashlib.sha256(path.encode(errors='surrogateescape')).hexdigest()[:16]}"


def _facts(outcome: ProcessedFile, photo: EncodedImage) -> bytes:
    width, height = photo.size
    facts = {
        "path": outcome.path,
        "class": outcome.class_name,
        "width": width,
        "height": height,
        "original_size": photo.original_size,
        "original_sha256": outcome.content_hash,
        "done": photo.changes,
        "grey": photo.is_grey,
    }
    return json.dumps(facts).encode()
