"""Processes one file of a source: reads, decodes, reduces and encodes it, in a worker process that may die of it."""

import hashlib
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..imaging.decode import HEADER_REPAIRED, Rejected, decode, reduced_size
from ..imaging.encode import EncodingSettings, encode_jpeg, resize
from ..imaging.jpeg import is_plain_jpeg, repair_header
from ..imaging.statistics import count_ab, is_grey, sample_ab
from ..system import is_out_of_memory
from .members import LocalFile, SourceFile
from .worker_pool import TaskFailure, Workers

SortKey = tuple[int, str]  # 64 bits of a hash, and the path for files that share them

BEFORE_ALL: SortKey = (-1, "")


@dataclass(frozen=True, kw_only=True)
class EncodedImage:
    """A photograph as it is stored: `data` is a JPEG, or Lab in bytes (3, height, width).

    `size` and `original_size` are (width, height); `changes` lists what was done to the file. `ab_codes` and
    `ab_counts` are those of `count_ab`.
    """

    data: bytes
    size: tuple[int, int]
    original_size: tuple[int, int]
    changes: tuple[str, ...]
    is_grey: bool
    ab_codes: NDArray[np.uint16]
    ab_counts: NDArray[np.uint32]


@dataclass(frozen=True, kw_only=True)
class ProcessedFile:
    """One file of a source: its path and class, the sha256 of its bytes ("" if unreadable), and what it became."""

    sort_key: SortKey
    path: str
    class_name: str
    content_hash: str
    result: EncodedImage | Rejected


class ImageWorkers(Workers[SourceFile, ProcessedFile]):
    """Processes that read and encode files; a file that takes longer than `seconds` counts as one that hangs."""

    def __init__(self, settings: EncodingSettings, *, seed: int, number: int, seconds: float) -> None:
        super().__init__(partial(process_image, settings=settings, seed=seed), number=number, seconds=seconds)
        self._seed = seed

    def process(self, files: Iterable[SourceFile]) -> Generator[ProcessedFile]:
        """Yields the processed files in order; removes temporary files that have been read."""
        for file, result in self.map(files):
            if isinstance(result, TaskFailure):
                rejected = Rejected(f"{result.reason} the decoder", result.detail)
                yield _processed(file, self._seed, "", rejected)
            else:
                yield result
            if isinstance(file.content, LocalFile) and file.content.temporary:
                file.content.path.unlink()


def process_image(file: SourceFile, *, settings: EncodingSettings, seed: int) -> ProcessedFile:
    """Reads and encodes one file, on one thread; a worker's task."""
    import torch

    torch.set_num_threads(1)
    content_hash = ""
    result: EncodedImage | Rejected
    try:
        data = file.content.read()
        content_hash = hashlib.sha256(data).hexdigest()
        result = encode_image(data, settings)
    except Rejected as rejected:
        result = rejected
    except Exception as error:  # unforeseen: one file must not stop a pack
        kind = "not enough memory" if is_out_of_memory(error) else "failed"
        result = Rejected(kind, f"{type(error).__name__}: {error}")
    return _processed(file, seed, content_hash, result)


def encode_image(data: bytes, settings: EncodingSettings) -> EncodedImage:
    """Returns the file's photograph as `settings` store it; it is never enlarged. Raises Rejected.

    A sound upright RGB JPEG that needs no resize keeps its bytes; with a faulty header, those of its scans. With
    `store` "lab", all pixels become Lab in bytes.
    """
    pixels, original_size, changes = decode(data, settings.short_side)
    size = reduced_size(original_size, settings.short_side)
    if size != original_size:
        pixels, changes = resize(pixels, size), (*changes, "resized")
    ab = sample_ab(pixels)
    ab_codes, ab_counts = count_ab(ab)
    if settings.store == "lab":
        from ..imaging.color import rgb_to_lab_uint8  # Numba takes seconds to load

        stored, changes = rgb_to_lab_uint8(pixels).tobytes(), (*changes, "to Lab")
    elif changes in ((), HEADER_REPAIRED) and is_plain_jpeg(sound := repair_header(data) if changes else data):
        stored = sound
    else:
        stored, changes = encode_jpeg(pixels, settings.quality, settings.subsampling), (*changes, "encoded")
    return EncodedImage(
        data=stored,
        size=size,
        original_size=original_size,
        changes=changes,
        is_grey=is_grey(ab),
        ab_codes=ab_codes,
        ab_counts=ab_counts,
    )


def sort_key(path: str, seed: int) -> SortKey:
    """Returns the file's key in the order of a shard set: a hash, so that a stream can be ordered before its end."""
    digest = hashlib.sha256(f"{seed}/".encode() + path.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8]), path


def _processed(file: SourceFile, seed: int, content_hash: str, result: EncodedImage | Rejected) -> ProcessedFile:
    return ProcessedFile(
        sort_key=sort_key(file.path, seed),
        path=file.path,
        class_name=file.class_name,
        content_hash=content_hash,
        result=result,
    )
