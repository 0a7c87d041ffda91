"""Brings a stream's outcomes into the order of a shard set, on disk: scattered over buckets by place as they come, then
sorted bucket by bucket. Beyond what the set will hold, that takes the space of one bucket, and the memory of its index.

A bucket is a file of records, each behind its lengths and its checksum: a record that a kill has torn is cut off.
"""

import io
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..files import atomic_write, sync
from ..imaging.decode import Rejected
from .process_image import EncodedImage, ProcessedFile, SortKey

NUM_BUCKETS = 256

_HEAD = struct.Struct("<III")  # bytes of the facts, bytes of the photograph, crc32 of both
_COMPLETE = "complete"


@dataclass(frozen=True)
class _Record:
    place: SortKey
    offset: int


class ExternalSorter:
    """The outcomes of a stream so far, in a folder of their own; `paths` are those that it holds."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._files: dict[int, io.FileIO] = {}
        self.paths: set[str] = set()
        if not self.is_complete:
            for bucket in range(NUM_BUCKETS):
                self._mend(bucket)

    @property
    def is_complete(self) -> bool:
        """Whether the whole stream is here."""
        return (self._folder / _COMPLETE).exists()

    def add(self, outcome: ProcessedFile) -> None:
        bucket = outcome.sort_key[0] * NUM_BUCKETS >> 64
        if bucket not in self._files:
            # Without a buffer: a record is written at once or, at a kill, torn at the end of the file.
            self._files[bucket] = io.FileIO(self._path(bucket), "ab")
        facts, blob = _packed(outcome)
        record = _HEAD.pack(len(facts), len(blob), zlib.crc32(blob, zlib.crc32(facts))) + facts + blob
        if self._files[bucket].write(record) != len(record):
            raise OSError(28, "No space left on device")
        self.paths.add(outcome.path)

    def complete(self, *, num_skipped: int) -> None:
        """Notes that the stream has ended, and how many of its files were not wanted."""
        self.close()
        for bucket in self._folder.iterdir():
            sync(bucket)
        with atomic_write(self._folder / _COMPLETE) as file:
            file.write_text(str(num_skipped))

    @property
    def num_skipped(self) -> int:
        """How many files of the complete stream were not wanted."""
        return int((self._folder / _COMPLETE).read_text())

    def outcomes(self, after: SortKey) -> Iterator[ProcessedFile]:
        """All outcomes beyond a place, in order."""
        for bucket in range(max(0, after[0] * NUM_BUCKETS >> 64), NUM_BUCKETS):
            if self._path(bucket).exists():
                with open(self._path(bucket), "rb") as file:
                    records = list(_records(file))
                    if file.tell() != self._path(bucket).stat().st_size:
                        raise ValueError(f"{self._path(bucket)} is damaged: remove {self._folder}, and pack anew")
                    for record in sorted(records, key=lambda record: record.place):
                        if record.place > after:
                            yield _read(file, record.offset)

    def forget(self, until: SortKey) -> None:
        """Removes the buckets that hold nothing beyond a place."""
        for bucket in range(until[0] * NUM_BUCKETS >> 64):
            self._path(bucket).unlink(missing_ok=True)

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _path(self, bucket: int) -> Path:
        return self._folder / f"{bucket:03}"

    def _mend(self, bucket: int) -> None:
        """Cuts off a torn record, and notes the paths of the others."""
        if not self._path(bucket).exists():
            return
        with open(self._path(bucket), "r+b") as file:
            end = 0
            for record in _records(file):
                self.paths.add(record.place[1])
                end = file.tell()
            file.truncate(end)


def _records(file: BinaryIO) -> Iterator[_Record]:
    """Every whole record; when one is yielded, the file stands behind it."""
    offset = 0
    while len(head := file.read(_HEAD.size)) == _HEAD.size:
        facts_size, blob_size, checksum = _HEAD.unpack(head)
        facts, blob = file.read(facts_size), file.read(blob_size)
        if zlib.crc32(blob, zlib.crc32(facts)) != checksum or len(facts) + len(blob) < facts_size + blob_size:
            return
        yield _Record(_place(json.loads(facts)), offset)
        offset = file.tell()


def _read(file: BinaryIO, offset: int) -> ProcessedFile:
    file.seek(offset)
    facts_size, blob_size, _ = _HEAD.unpack(file.read(_HEAD.size))
    facts = json.loads(file.read(facts_size))
    return _unpacked(facts, file.read(blob_size))


def _place(facts: dict[str, Any]) -> SortKey:
    return facts["place"], facts["path"]


def _packed(outcome: ProcessedFile) -> tuple[bytes, bytes]:
    facts: dict[str, Any] = {
        "place": outcome.sort_key[0],
        "path": outcome.path,
        "class": outcome.class_name,
        "content": outcome.content_hash,
    }
    result = outcome.result
    if isinstance(result, Rejected):
        return json.dumps(facts | {"rejected": [result.reason, result.detail]}).encode(), b""
    facts |= {
        "size": result.size,
        "original_size": result.original_size,
        "done": result.changes,
        "grey": result.is_grey,
        "colours": len(result.ab_codes),
    }
    return json.dumps(facts).encode(), result.ab_codes.tobytes() + result.ab_counts.tobytes() + result.data


def _unpacked(facts: dict[str, Any], blob: bytes) -> ProcessedFile:
    result: EncodedImage | Rejected
    if "rejected" in facts:
        result = Rejected(*facts["rejected"])
    else:
        colours = facts["colours"]
        result = EncodedImage(
            data=blob[6 * colours :],
            size=tuple(facts["size"]),
            original_size=tuple(facts["original_size"]),
            changes=tuple(facts["done"]),
            is_grey=facts["grey"],
            ab_codes=np.frombuffer(blob, np.uint16, colours).copy(),  # else they would keep the picture
            ab_counts=np.frombuffer(blob, np.uint32, colours, offset=2 * colours).copy(),
        )
    return ProcessedFile(
        sort_key=_place(facts),
        path=facts["path"],
        class_name=facts["class"],
        content_hash=facts["content"],
        result=result,
    )
