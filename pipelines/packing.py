"""Packs a folder of photographs into a shard set, once, so that training never meets a file that does not decode."""

import csv
import hashlib
import json
import os
import re
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from . import photograph
from .files import sole_writer, whole_file
from .hashing import permutation
from .photograph import Photograph, Rejected
from .shards import MANIFEST, Shard, describe, write_manifest

REJECTS = "rejects.csv"
MARK = ".packing"  # there from the first moment of a pack to its last
_OURS = re.compile(r"photos-\d{6}\.(tar|idx)|\.[0-9a-f]{16}\.tmp|rejects\.csv")

AbCounts = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """Packs photographs into a shard set.

    Args:
        source: Folder of photographs; its subfolders are searched too and become the classes.
        out: New folder for the shard set.
        short_side: Reduce the short side to this many pixels, antialiased; 'none' keeps the original sizes.
        quality: JPEG quality of what is stored, 1 to 100; the chroma is never subsampled.
        workers: Processes that decode and encode; by default one per CPU core.
        seed: Of the order in which photographs are stored.
        keep_grey: Also pack photographs without colour (no |a| or |b| above 5); by default they are dropped.
        shard_samples: Photographs per shard.
    """

    source: Path
    out: Path
    short_side: int | Literal["none"] = 288
    quality: int = 95
    workers: int | None = None
    seed: int = 0
    keep_grey: bool = False
    shard_samples: int = 4096

    def __post_init__(self) -> None:
        smallest = photograph.MIN_SIDE
        if self.short_side != "none" and self.short_side < smallest:
            raise ValueError(f"--short-side {self.short_side} is below {smallest}, the smallest side that is packed")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"--quality {self.quality} is not between 1 and 100")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"--workers {self.workers} is not a positive number of processes")
        if self.seed < 0:
            raise ValueError(f"--seed {self.seed} is negative")
        if self.shard_samples < 1:
            raise ValueError(f"--shard-samples {self.shard_samples} is not a positive number of photographs")

    @property
    def limit(self) -> int | None:
        """The short side in pixels above which photographs are reduced, or None."""
        return None if self.short_side == "none" else self.short_side


@dataclass(kw_only=True)
class _Tally:
    """What became of the source's files."""

    rejects: list[tuple[str, str, str]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    ab_counts: AbCounts = field(default_factory=lambda: np.zeros(65536, dtype=np.int64))
    num_packed: int = 0

    def add(self, path: str, outcome: Photograph | Rejected, keep_grey: bool) -> bool:
        """Counts one file; true when it is to be stored."""
        if isinstance(outcome, Rejected):
            self.rejects.append((path, outcome.reason, outcome.detail))
            return False
        if outcome.is_grey and not keep_grey:
            self.dropped["grey"] += 1
            return False
        self.num_packed += 1
        self.classes[_class_of(path)] += 1
        self.ab_counts += np.bincount(outcome.ab_cells, minlength=65536)
        return True

    @property
    def rejected(self) -> Counter[str]:
        return Counter(reason for _, reason, _ in self.rejects)


def pack(
    config: PackConfig,
    *,
    ab_histogram: Callable[[AbCounts], NDArray[np.float64]],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Packs config.source into config.out and returns the figures of summary.json.

    `ab_histogram` turns the counts (256, 256) of colours, by a + 128 and b + 128, into the shares (313,) of the ab
    bins; `progress` is told the number of files done and of all files.

    Raises ValueError when the source holds no photograph or the target is in use; then, as after any other failure,
    nothing is left in the target.
    """
    started = time.perf_counter()
    if config.out.resolve().is_relative_to(config.source.resolve()):
        raise ValueError(f"{config.out} lies in {config.source}, which it is packed from: name a folder elsewhere")
    files = _files(config.source)
    tally = _Tally()
    with _claimed(config.out):
        shards = _write_shards(config, files, tally, progress)
        if not shards:
            raise ValueError(_nothing_packed(config.source, len(files), tally))
        _write_rejects(config.out / REJECTS, tally.rejects)
        write_manifest(config.out, shards, **_manifest_facts(config, tally, ab_histogram))
    seconds = time.perf_counter() - started
    return {
        "num_packed": tally.num_packed,
        "num_rejected": len(tally.rejects),
        "num_dropped": tally.dropped.total(),
        "dropped": dict(tally.dropped),
        "rejected": dict(tally.rejected),
        "num_shards": len(shards),
        "bytes": sum(shard.bytes for shard in shards),
        "seconds": round(seconds, 3),
        "images_per_second": round(len(files) / seconds, 2),
    }


def _files(source: Path) -> list[str]:
    """Paths of all files below `source`, relative to it, sorted, with forward slashes."""
    if not source.exists():
        raise ValueError(f"there is no folder {source}: name one that holds photographs")
    if not source.is_dir():
        raise ValueError(f"{source} is no folder: name one that holds photographs")

    found = [path.relative_to(source).as_posix() for path in _walk(source)]
    if not found:
        raise ValueError(f"{source} holds no files: name a folder that holds photographs")
    return sorted(found)


def _walk(source: Path) -> Iterator[Path]:
    """All files below `source`; links to folders are followed, but not round in a circle."""

    def refuse(error: OSError) -> None:  # os.walk would skip an unreadable folder, and lose its files silently
        raise ValueError(f"cannot list {error.filename}: {error.strerror}")

    for folder, subfolders, names in os.walk(source, onerror=refuse, followlinks=True):
        above = {parent.resolve() for parent in (Path(folder), *Path(folder).parents)}
        above |= {parent for path in list(above) for parent in path.parents}
        subfolders[:] = [name for name in subfolders if Path(folder, name).resolve() not in above]
        yield from (Path(folder, name) for name in names)


@contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """Makes the target folder and keeps others from it; if what follows fails, nothing of it stays.

    What an interrupted pack has left there is cleared. Raises ValueError when the folder holds anything else, or when
    another pack is at work in it.
    """
    created = not out.exists()
    try:
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out} is a file: name a new folder")
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write to {out}: {error.strerror}; name another folder") from None
    with sole_writer(out):
        _clear(out)
        try:
            yield
        except BaseException:
            if not (out / MANIFEST).exists():
                for path in _ours(out):
                    path.unlink()
                (out / MARK).unlink()
                if created:
                    out.rmdir()
            raise
        finally:
            (out / MARK).unlink(missing_ok=True)


def _clear(out: Path) -> None:
    """Marks the folder as being packed into, and empties it of what an interrupted pack has left."""
    if (out / MANIFEST).exists():
        raise ValueError(f"{out} already holds a shard set: name a new folder, or remove it first")
    # Only beside the mark of an interrupted pack are shards without a manifest known to be its leftovers.
    leftovers = _ours(out) if (out / MARK).exists() else []
    strangers = sorted({path.name for path in out.iterdir()} - {path.name for path in leftovers} - {MARK})
    if strangers:
        raise ValueError(f"{out} is not empty (it holds {strangers[0]}): name a new folder")
    try:
        (out / MARK).touch()
        for path in leftovers:
            path.unlink()
    except OSError as error:
        raise ValueError(f"cannot write to {out}: {error.strerror}; name another folder") from None


def _ours(out: Path) -> list[Path]:
    """What a pack puts into its folder, its mark aside."""
    return [path for path in out.iterdir() if _OURS.fullmatch(path.name)]


def _write_shards(
    config: PackConfig, files: list[str], tally: _Tally, progress: Callable[[int, int], None]
) -> list[Shard]:
    """Stores what passes the gate, in the seed's order, in shards of equal numbers of photographs."""
    order = [files[i] for i in permutation(len(files), config.seed)]
    photographs = _photographs(config, order, tally, progress)
    shards: list[Shard] = []
    with closing(photographs):
        for first in photographs:
            tar = config.out / f"photos-{len(shards):06d}.tar"
            sizes = _write_tar(tar, chain([first], islice(photographs, config.shard_samples - 1)))
            shards.append(describe(tar, sizes))
    return shards


def _write_tar(tar: Path, photographs: Iterable[tuple[str, Photograph]]) -> list[tuple[int, int]]:
    """Writes one shard, which appears under its name only when it is whole and durable; returns the stored sizes."""
    from webdataset import TarWriter

    sizes = []
    neutral = {"mtime": 0, "user": "photochrom", "group": "photochrom"}
    with whole_file(tar) as file, open(file, "wb") as stream, TarWriter(stream, encoder=False, **neutral) as writer:
        for path, photo in photographs:
            writer.write({"__key__": _key(path), "jpg": photo.jpeg, "json": _facts(path, photo)})
            sizes.append(photo.size)
    return sizes


def _photographs(
    config: PackConfig, order: list[str], tally: _Tally, progress: Callable[[int, int], None]
) -> Generator[tuple[str, Photograph]]:
    """What is to be stored, in `order` whatever the number of workers; all else goes to the tally."""
    num_workers = config.workers or len(os.sched_getaffinity(0))
    pool = ProcessPoolExecutor(num_workers, get_context("spawn"), initializer=_follow_the_packer)
    waiting: deque[tuple[str, Future[Photograph | Rejected]]] = deque()
    todo = iter(order)
    try:
        for done in range(1, len(order) + 1):
            for path in islice(todo, 8 * num_workers - len(waiting)):  # enough to keep all busy, few to hold in memory
                waiting.append((path, pool.submit(_process, config.source / path, config.limit, config.quality)))
            path, future = waiting.popleft()
            outcome = future.result()
            progress(done, len(order))
            if tally.add(path, outcome, config.keep_grey):
                assert isinstance(outcome, Photograph)
                yield path, outcome
    except BrokenProcessPool:
        suspects = ", ".join(path for path, _ in list(waiting)[:num_workers])
        raise ValueError(
            f"a worker died, killed by the system for its memory or by a decoder's crash, near {path}, {suspects}: "
            "move the culprit away, or try fewer --workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _process(path: Path, short_side: int | None, quality: int) -> Photograph | Rejected:
    """Runs in a worker."""
    try:
        return photograph.make_photograph(photograph.read_file(path), short_side=short_side, quality=quality)
    except Rejected as rejected:
        return rejected


def _follow_the_packer() -> None:
    """A worker ends with the packer, even a killed one, and not before it at Ctrl-C, which reaches the whole group."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    packer = parent_process()
    assert packer is not None

    def follow() -> None:
        wait([packer.sentinel])
        os._exit(1)

    Thread(target=follow, daemon=True).start()


def _key(path: str) -> str:
    """A name for the sample: readable, ASCII, without dots, and unique because it ends in a hash of the whole path."""
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(path).stem).strip("-")[:60]
    return f"{slug}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}"


def _class_of(path: str) -> str:
    folder = Path(path).parent.as_posix()
    return "" if folder == "." else folder


def _facts(path: str, photo: Photograph) -> bytes:
    width, height = photo.size
    facts = {
        "path": path,
        "class": _class_of(path),
        "width": width,
        "height": height,
        "original_size": photo.original_size,
        "done": photo.done,
        "grey": photo.is_grey,
    }
    return json.dumps(facts).encode()


def _manifest_facts(
    config: PackConfig, tally: _Tally, ab_histogram: Callable[[AbCounts], NDArray[np.float64]]
) -> dict[str, Any]:
    """All that the manifest says beside the shards: a pure function of the source, the settings and the seed."""
    return {
        "photochrom": __version__,
        "source": str(config.source),
        "seed": config.seed,
        "image": {
            "short_side": config.limit,
            "resampler": photograph.RESAMPLER,
            "quality": config.quality,
            "subsampling": photograph.SUBSAMPLING,
        },
        "counts": {
            "packed": tally.num_packed,
            "dropped": dict(sorted(tally.dropped.items())),
            "rejected": dict(sorted(tally.rejected.items())),
        },
        "classes": dict(sorted(tally.classes.items())),
        "ab_histogram": ab_histogram(tally.ab_counts.reshape(256, 256)).tolist(),
    }


def _write_rejects(path: Path, rejects: list[tuple[str, str, str]]) -> None:
    # File names are bytes to the system: those that are no UTF-8 are written as they are.
    with whole_file(path) as file, open(file, "w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "reason", "detail"])
        writer.writerows(sorted(rejects))


def _nothing_packed(source: Path, num_files: int, tally: _Tally) -> str:
    reasons = [f"{number} {reason}" for reason, number in tally.rejected.most_common()]
    reasons += [f"{number} {reason} (--keep-grey packs them)" for reason, number in tally.dropped.items()]
    return f"{source} holds no photograph that can be packed; of its {num_files} files: {', '.join(reasons)}"
