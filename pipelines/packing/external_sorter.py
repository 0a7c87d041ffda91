"""Sorts the processed files of a stream on disk: first into buckets by sort key, then bucket by bucket.

Beyond what the set will hold, this takes the space of one bucket, and the memory of its index. A bucket is a file of
records, each behind its lengths and its checksum; a record that a kill has torn is cut off.
"""

import io
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..files import atomic_write, sync
from ..imaging.decode import Rejected
from ..structured import read_json, validated
from .pack_stats import SourceAccount
from .process_image import EncodedImage, ProcessedFile, SortKey

NUM_BUCKETS = 256

_HEAD = struct.Struct("<III")  # bytes of the facts, bytes of the image, crc32 of both
_COMPLETE = "complete"


class ExternalSorter:
    """The processed files of a stream so far, in a folder of their own; `paths` are theirs."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._buckets: dict[int, io.FileIO] = {}
        self.paths: set[str] = set()
        if not self.is_complete:
            for bucket in range(NUM_BUCKETS):
                self._recover(bucket)

    @property
    def is_complete(self) -> bool:
        """True once the whole stream has been added."""
        return (self._folder / _COMPLETE).exists()

    def add(self, file: ProcessedFile) -> None:
        bucket = file.sort_key[0] * NUM_BUCKETS >> 64
        if bucket not in self._buckets:
            # Unbuffered: a kill leaves a record whole, or torn at the end of the bucket.
            self._buckets[bucket] = io.FileIO(self._path(bucket), "ab")
        facts, blob = _pack(file)
        record = _HEAD.pack(len(facts), len(blob), zlib.crc32(blob, zlib.crc32(facts))) + facts + blob
        if self._buckets[bucket].write(record) != len(record):
            raise OSError(28, "No space left on device")
        self.paths.add(file.path)

    def complete(self, account: SourceAccount) -> None:
        """Notes that the stream has ended, and its account."""
        self.close()
        for path in self._folder.iterdir():
            sync(path)
        with atomic_write(self._folder / _COMPLETE) as path:
            path.write_text(json.dumps(vars(account)))

    @property
    def account(self) -> SourceAccount:
        """The account of the complete stream."""
        return validated(SourceAccount, read_json(self._folder / _COMPLETE), "the account of the stream")

    def sorted_files(self, after: SortKey) -> Iterator[ProcessedFile]:
        """Yields all files with a sort key above `after`, in order."""
        for bucket in range(max(0, after[0] * NUM_BUCKETS >> 64), NUM_BUCKETS):
            path = self._path(bucket)
            if not path.exists():
                continue
            with open(path, "rb") as stream:
                records = sorted(_records(stream))
                if stream.tell() != path.stat().st_size:
                    raise ValueError(f"{path} is damaged: remove {self._folder}, and pack anew")
                for sort_key, offset in records:
                    if sort_key > after:
                        yield _read(stream, offset)

    def remove(self, until: SortKey) -> None:
        """Removes the buckets that hold no sort key above `until`."""
        for bucket in range(until[0] * NUM_BUCKETS >> 64):
            self._path(bucket).unlink(missing_ok=True)

    def close(self) -> None:
        for bucket in self._buckets.values():
            bucket.close()
        self._buckets.clear()

    def _path(self, bucket: int) -> Path:
        return self._folder / f"{bucket:03}"

    def _recover(self, bucket: int) -> None:
        """Cuts off a torn record, and notes the paths of the others."""
        if not self._path(bucket).exists():
            return
        with open(self._path(bucket), "r+b") as stream:
            end = 0
            for (_, path), _ in _records(stream):
                self.paths.add(path)
                end = stream.tell()
            stream.truncate(end)


def _records(stream: BinaryIO) -> Iterator[tuple[SortKey, int]]:
    """Yields sort key and offset of every whole record, and leaves the stream behind it."""
    offset = 0
    while len(head := stream.read(_HEAD.size)) == _HEAD.size:
        facts_size, blob_size, checksum = _HEAD.unpack(head)
        facts, blob = stream.read(facts_size), stream.read(blob_size)
        if zlib.crc32(blob, zlib.crc32(facts)) != checksum or len(facts) + len(blob) < facts_size + blob_size:
            return
        yield _sort_key(json.loads(facts)), offset
        offset = stream.tell()


def _read(stream: BinaryIO, offset: int) -> ProcessedFile:
    stream.seek(offset)
    facts_size, blob_size, _ = _HEAD.unpack(stream.read(_HEAD.size))
    facts = json.loads(stream.read(facts_size))
    return _unpack(facts, stream.read(blob_size))


def _sort_key(facts: dict[str, Any]) -> SortKey:
    return facts["sort_key"][0], facts["sort_key"][1]


def _pack(file: ProcessedFile) -> tuple[bytes, bytes]:
    """Returns the facts as JSON, and the arrays and the image as bytes."""
    result, blob = file.result, b""
    if isinstance(result, Rejected):
        facts: dict[str, Any] = {"rejected": [result.reason, result.detail]}
    else:
        facts = vars(result) | {"data": None, "ab_codes": len(result.ab_codes), "ab_counts": None}
        blob = result.ab_codes.tobytes() + result.ab_counts.tobytes() + result.data
    return json.dumps(vars(file) | {"result": facts}).encode(), blob


def _unpack(facts: dict[str, Any], blob: bytes) -> ProcessedFile:
    result: EncodedImage | Rejected
    if "rejected" in facts["result"]:
        result = Rejected(*facts["result"]["rejected"])
    else:
        image: dict[str, Any] = facts["result"]
        num_codes = image["ab_codes"]
        image |= {name: tuple(image[name]) for name in ("size", "original_size", "changes")} | {
            "data": blob[6 * num_codes :],
            "ab_codes": np.frombuffer(blob, np.uint16, num_codes).copy(),  # copied, so as not to keep the blob alive
            "ab_counts": np.frombuffer(blob, np.uint32, num_codes, offset=2 * num_codes).copy(),
        }
        result = EncodedImage(**image)
    return ProcessedFile(**facts | {"sort_key": _sort_key(facts), "result": result})
