"""Counts what became of a source's files: packed, dropped or rejected, with classes, duplicates and colours."""

from collections import Counter
from dataclasses import dataclass, field
from operator import iadd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..imaging.statistics import NUM_AB_CODES
from ..shards import Shard
from .process_image import EncodedImage, ProcessedFile


@dataclass(kw_only=True)
class SourceAccount:
    """The number of files in a source, and of those that are not examined, by reason.

    `dropped` are photographs, `not_taken` are other files, such as captions. `unread` maps an archive to the number of
    bytes before or behind its content.
    """

    num_files: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    not_taken: Counter[str] = field(default_factory=Counter)
    unread: dict[str, int] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Returns the entries of summary.json."""
        facts = {"num_files": self.num_files, "num_not_taken": self.not_taken.total()}
        return facts | {"not_taken": dict(self.not_taken), "unread": self.unread}


@dataclass(kw_only=True)
class PackStats:
    """Statistics of some of a source's files.

    `ab_counts` (65536,) counts the ab codes (see `count_ab`) of all stored photographs; `contents` are the sha256 of
    the original files.
    """

    rejects: list[tuple[str, str, str]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    contents: list[str] = field(default_factory=list)
    num_packed: int = 0
    num_grey: int = 0
    num_duplicates: int = 0
    ab_counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(NUM_AB_CODES, dtype=np.int64))

    @property
    def rejected(self) -> Counter[str]:
        """Number of rejected files by reason."""
        return Counter(reason for _, reason, _ in self.rejects)

    @property
    def num_files(self) -> int:
        return self.num_packed + self.dropped.total() + len(self.rejects)

    def reject(self, path: str, reason: str, detail: str) -> None:
        self.rejects.append((path, reason, detail))

    def add_image(self, file: ProcessedFile, image: EncodedImage) -> None:
        """Counts a photograph that is stored."""
        self.num_packed += 1
        self.num_grey += image.is_grey
        self.classes[file.class_name] += 1
        self.contents.append(file.content_hash)
        self.ab_counts[image.ab_codes] += image.ab_counts

    def update(self, other: "PackStats") -> None:
        """Adds the counts of `other`."""
        for name, value in vars(other).items():
            setattr(self, name, iadd(getattr(self, name), value))

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

    def summary(self, shards: list[Shard]) -> dict[str, Any]:
        """Returns the entries of summary.json about these files and the shards made of them."""
        return {
            "num_rejected": len(self.rejects),
            "num_dropped": self.dropped.total(),
            "num_duplicates": self.num_duplicates,
            "dropped": dict(self.dropped),
            "rejected": dict(self.rejected),
            "num_shards": len(shards),
            "bytes": sum(shard.bytes for shard in shards),
        }

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"ab_counts": self.ab_counts.tolist()}

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> "PackStats":
        return cls(
            **facts
            | {
                "rejects": [(str(path), str(reason), str(detail)) for path, reason, detail in facts["rejects"]],
                "contents": list(map(str, facts["contents"])),
                "dropped": Counter(facts["dropped"]),
                "classes": Counter(facts["classes"]),
                "ab_counts": np.array(facts["ab_counts"], dtype=np.int64),
            }
        )
