"""What became of each file of a source, and its place in the order of a shard set."""

import hashlib
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from functools import partial

from ..shards import Store
from . import process_image as photograph
from .members import Entry, LocalFile
from .process_image import Photograph, Rejected, Subsampling
from .worker_pool import TaskFailure, Workers

Place = tuple[int, str]  # 64 bits and, for files that share them, the path

BEFORE_ALL: Place = (-1, "")


@dataclass(frozen=True, kw_only=True)
class EncodingSettings:
    """How photographs are made: the short side in pixels (None keeps the size), JPEG quality and chroma subsampling.

    Of those that are stored as Lab, only the short side counts.
    """

    short_side: int | None
    quality: int
    subsampling: Subsampling
    store: Store = "jpeg"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One file: its place, path and class, the sha256 of its bytes ("" if they could not be read), what it became."""

    place: Place
    path: str
    class_name: str
    content: str
    result: Photograph | Rejected


def place_of(path: str, seed: int) -> Place:
    """Where the file stands: a hash, so that a stream can be ordered before its end is seen."""
    digest = hashlib.sha256(f"{seed}/".encode() + path.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8]), path


class ImageWorkers(Workers[Entry, Outcome]):
    """Processes that read files and pass them through the gate; one that takes `seconds` hangs."""

    def __init__(self, gate: EncodingSettings, *, seed: int, number: int, seconds: float) -> None:
        super().__init__(partial(examine, gate=gate, seed=seed), number=number, seconds=seconds)
        self._seed = seed

    def outcomes(self, entries: Iterable[Entry]) -> Generator[Outcome]:
        """What becomes of each, in their order; temporary files are removed when they have been read."""
        for entry, result in self.map(entries):
            if isinstance(result, TaskFailure):
                lost = Rejected(f"{result.reason} the decoder", result.detail)
                yield _outcome(entry, self._seed, "", lost)
            else:
                yield result
            if isinstance(entry.content, LocalFile) and entry.content.temporary:
                entry.content.file.unlink()


def examine(entry: Entry, *, gate: EncodingSettings, seed: int) -> Outcome:
    """Reads one file and passes it through the gate; a worker's task, which takes one thread."""
    import torch

    torch.set_num_threads(1)
    content = ""
    result: Photograph | Rejected
    try:
        data = entry.content.read()
        content = hashlib.sha256(data).hexdigest()
        result = photograph.make_photograph(
            data,
            short_side=gate.short_side,
            quality=gate.quality,
            subsampling=gate.subsampling,
            store=gate.store,
        )
    except Rejected as rejected:
        result = rejected
    except Exception as error:  # of a kind that nobody has thought of: one file is no reason to stop
        result = Rejected("failed", f"{type(error).__name__}: {error}")
    return _outcome(entry, seed, content, result)


def _outcome(entry: Entry, seed: int, content: str, result: Photograph | Rejected) -> Outcome:
    return Outcome(
        place=place_of(entry.path, seed),
        path=entry.path,
        class_name=entry.class_name,
        content=content,
        result=result,
    )
