"""Packs photographs into shard sets, once, so that training never meets a file that does not decode.

Every file of the source becomes an outcome (outcomes.py) that worker processes make. Outcomes are brought into the
order of their places: those of a source that can be read in any order are made in it, those of a stream are spooled.
Then each goes to the writer of its set.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from . import photograph, sources
from .decodable import DaliCheck, has_dali
from .files import sole_writer, whole_file
from .http import is_url
from .labels import part_of, read_partition
from .members import Entry, FileAt
from .outcomes import Gate, Outcome, Place, examine, outcome_of, place_of
from .photograph import Rejected, Subsampling
from .shards import MANIFEST, write_manifest, write_rejects
from .shardwriter import AbCounts, ShardWriter, Tally
from .sources import Stream
from .spool import Spool
from .workers import Lost, Progress, Workers, own_cores

WORK = ".packing"  # the folder of what a pack has not finished


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """Packs photographs into a shard set.

    Args:
        source: Folder (its subfolders are searched too), .tar, .tar.gz, .zip, URL of an archive, or a WebDataset.
        out: New folder for the shard set; one that an interrupted pack has left is finished by the same command.
        short_side: Reduce the short side to this many pixels, antialiased; 'none' keeps the original sizes.
        quality: JPEG quality of what is stored, 1 to 100.
        subsampling: Of the chroma of what is stored; 444 keeps it whole.
        workers: Processes that decode and encode; by default one per CPU core.
        time_limit: Seconds after which a photograph that is not decoded counts as one that hangs its decoder.
        seed: Of the order in which photographs are stored, and of --split.
        keep_grey: Also pack photographs without colour (no |a| or |b| above 5); by default they are dropped.
        drop_duplicates: Pack of files with the same bytes only the first; they are counted in any case.
        split: Make two shard sets, OUT/train with this share of the photographs and OUT/test with the others.
        partitions: Make two shard sets, OUT/train and OUT/test, by SUN397's Partitions.zip or a folder of its files.
        partition: Which of SUN397's ten official partitions.
        shard_samples: Photographs per shard.
    """

    source: str | Path
    out: Path
    short_side: int | Literal["none"] = 288
    quality: int = 95
    subsampling: Subsampling = "444"
    workers: int | None = None
    time_limit: float = 60.0
    seed: int = 0
    keep_grey: bool = False
    drop_duplicates: bool = False
    split: float | None = None
    partitions: Path | None = None
    partition: int = 1
    shard_samples: int = 4096

    def __post_init__(self) -> None:
        smallest = photograph.MIN_SIDE
        if self.short_side != "none" and self.short_side < smallest:
            raise ValueError(f"--short-side {self.short_side} is below {smallest}, the smallest side that is packed")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"--quality {self.quality} is not between 1 and 100")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"--workers {self.workers} is not a positive number of processes")
        if not self.time_limit > 0:
            raise ValueError(f"--time-limit {self.time_limit} is not a positive number of seconds")
        if self.seed < 0:
            raise ValueError(f"--seed {self.seed} is negative")
        if self.split is not None and not 0 < self.split < 1:
            raise ValueError(f"--split {self.split} is not between 0 and 1, as in --split 0.95")
        if self.split is not None and self.partitions is not None:
            raise ValueError("--split and --partitions exclude each other: give one of them")
        if not 1 <= self.partition <= 10:
            raise ValueError(f"--partition {self.partition} is not between 1 and 10")
        if self.shard_samples < 1:
            raise ValueError(f"--shard-samples {self.shard_samples} is not a positive number of photographs")

    @property
    def gate(self) -> Gate:
        """How each photograph is made."""
        short_side = None if self.short_side == "none" else self.short_side
        return Gate(short_side=short_side, quality=self.quality, subsampling=self.subsampling)

    @property
    def roots(self) -> dict[str, Path]:
        """The folders of the shard sets, by their names, of which the one of a single set is empty."""
        if self.split is None and self.partitions is None:
            return {"": self.out}
        return {name: self.out / name for name in ("train", "test")}


def pack(
    config: PackConfig,
    *,
    ab_histogram: Callable[[AbCounts], NDArray[np.float64]],
    progress: Progress = lambda done, total, unit: None,
) -> dict[str, Any]:
    """Packs config.source into config.out and returns the figures of summary.json.

    `ab_histogram` turns the counts (256, 256) of colours, by a + 128 and b + 128, into the shares (313,) of the ab
    bins; `progress` is told how much is done, of how much, and in which unit: files, or MiB of a stream.

    Raises ValueError when the source holds no photograph or the target is in use. A pack that is killed, interrupted or
    finds no space goes on, by the same command, from its last finished shard; one that ends before its first leaves
    nothing.
    """
    started = time.perf_counter()
    source = str(config.source)
    if not is_url(source) and config.out.resolve().is_relative_to(Path(source).resolve()):
        raise ValueError(f"{config.out} lies in {source}, which it is packed from: name a folder elsewhere")
    partition = None if config.partitions is None else read_partition(config.partitions, config.partition)
    entries = sources.listed(source)
    stream = Stream(source) if entries is None else None
    with ExitStack() as stack:
        if stream:
            stack.callback(stream.close)
        work = stack.enter_context(_claimed(config, _identity(config, stream.identity if stream else entries or [])))
        try:
            packing = _Packing(config, stack, work, partition, progress)
            packing.run(entries, stream)
        except OSError as error:
            raise ValueError(
                f"cannot write to {config.out}: {error.strerror or error}; what is finished stays: make room, and run "
                "the same command again to go on"
            ) from error
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the same command goes on from the last finished shard") from None
        tallies = {name: writer.tally for name, writer in packing.writers.items()}
        if empty := [name for name, writer in packing.writers.items() if not writer.shards]:
            shutil.rmtree(work)  # the same command would come to the same end
            for root in config.roots.values():
                for path in root.glob("photos-*"):
                    path.unlink()
            raise ValueError(_nothing_packed(source, empty, tallies))
        for name, writer in packing.writers.items():
            root = config.roots[name]
            write_rejects(root, writer.tally.rejects)
            write_manifest(root, writer.shards, **_manifest_facts(config, writer.tally, ab_histogram))
    total = sum_of(tallies.values())
    seconds = time.perf_counter() - started
    return {
        "num_packed": total.num_packed,
        "num_rejected": len(total.rejects),
        "num_dropped": total.dropped.total() + packing.num_skipped,
        "num_duplicates": total.num_duplicates,
        "dropped": dict(total.dropped) | ({"in no partition": packing.num_skipped} if packing.num_skipped else {}),
        "rejected": dict(total.rejected),
        "sets": {str(config.roots[name]): tally.num_packed for name, tally in tallies.items()},
        "num_shards": sum(len(writer.shards) for writer in packing.writers.values()),
        "bytes": sum(shard.bytes for writer in packing.writers.values() for shard in writer.shards),
        "num_missing": len(partition) - total.num_files if partition else 0,
        "num_resumed": packing.num_resumed,
        "seconds": round(seconds, 3),
        "images_per_second": round((total.num_files - packing.num_resumed) / seconds, 2),
    }


class _Packing:
    """One run: its workers, its writers, and what passes from the ones to the others."""

    def __init__(
        self,
        config: PackConfig,
        stack: ExitStack,
        work: Path,
        partition: Mapping[str, str] | None,
        progress: Progress,
    ) -> None:
        self._config, self._work, self._partition, self._progress = config, work, partition, progress
        self.num_skipped = 0  # files in no partition
        number = config.workers or own_cores()
        dali = stack.enter_context(DaliCheck(threads=max(1, number // 4))) if has_dali() else None
        self._workers: Workers[Entry, Outcome] = stack.enter_context(
            Workers(partial(examine, gate=config.gate, seed=config.seed), number=number, seconds=config.time_limit)
        )
        background = stack.enter_context(ThreadPoolExecutor(1))  # one thread: there is one DALI
        self.writers = {
            name: stack.enter_context(
                closing(
                    ShardWriter(
                        root,
                        work / (name or "all"),
                        shard_samples=config.shard_samples,
                        keep_grey=config.keep_grey,
                        drop_duplicates=config.drop_duplicates,
                        check=dali.refused if dali else None,
                        background=background,
                    )
                )
            )
            for name, root in config.roots.items()
        }
        self.num_resumed = sum(writer.tally.num_files for writer in self.writers.values())

    def run(self, entries: list[Entry] | None, stream: Stream | None) -> None:
        outcomes = self._of_stream(stream) if stream else self._of_list(entries or [])
        with closing(outcomes):
            for outcome in outcomes:
                self.writers[self._set_of(outcome)].add(outcome)
        for writer in self.writers.values():
            writer.finish()

    @property
    def _end(self) -> Place:
        """The place up to which all writers have what they need."""
        return min(writer.end for writer in self.writers.values())

    def _wanted(self, path: str) -> bool:
        return self._partition is None or part_of(path, self._partition) is not None

    def _set_of(self, outcome: Outcome) -> str:
        if self._partition is not None:
            return part_of(outcome.path, self._partition) or ""
        if self._config.split is None:
            return ""
        # By content, so that copies of one photograph come to lie on one side.
        share = place_of(outcome.content or outcome.path, self._config.seed)[0] / 2**64
        return "train" if share < self._config.split else "test"

    def _of_list(self, entries: list[Entry]) -> Generator[Outcome]:
        wanted = [entry for entry in entries if self._wanted(entry.path)]
        self.num_skipped = len(entries) - len(wanted)
        end, seed = self._end, self._config.seed
        placed = sorted((place_of(entry.path, seed), number) for number, entry in enumerate(wanted))
        todo = [wanted[number] for place, number in placed if place > end]
        for done, outcome in enumerate(self._examined(todo), start=len(wanted) - len(todo) + 1):
            self._progress(done, len(wanted), "files")
            yield outcome

    def _of_stream(self, stream: Stream) -> Generator[Outcome]:
        """Reads the whole stream into the spool, then takes it out in order."""
        spool = Spool(self._work / "spool")
        if not spool.is_complete:
            incoming = self._work / "incoming"
            incoming.mkdir(exist_ok=True)
            skipped: list[str] = []

            def wanted(path: str) -> bool:
                if not self._wanted(path):
                    skipped.append(path)
                return self._wanted(path) and path not in spool.paths

            with closing(spool), closing(self._examined(stream.entries(wanted, incoming))) as examined:
                for outcome in examined:
                    spool.add(outcome)
                    self._progress(stream.position >> 20, stream.total and stream.total >> 20, "MiB")
            shutil.rmtree(incoming)
            spool.complete(num_skipped=len(skipped))
        self.num_skipped = spool.num_skipped
        for outcome in spool.outcomes(after=self._end):
            yield outcome
            spool.forget(self._end)

    def _examined(self, entries: Iterable[Entry]) -> Generator[Outcome]:
        for entry, result in self._workers.map(entries):
            if isinstance(result, Lost):
                rejected = Rejected(f"{result.reason} the decoder", result.detail)
                yield outcome_of(entry, self._config.seed, "", rejected)
            else:
                yield result
            if isinstance(entry.content, FileAt) and entry.content.temporary:
                entry.content.file.unlink()


def sum_of(tallies: Iterable[Tally]) -> Tally:
    """What became of the files of several sets."""
    total = Tally()
    for tally in tallies:
        total.add(tally)
    return total


def _identity(config: PackConfig, source: str | list[Entry]) -> dict[str, Any]:
    """What must be the same for a pack to go on where another was interrupted."""
    if isinstance(source, list):
        paths = "\0".join(sorted(entry.path for entry in source))
        source = f"{len(source)} files {hashlib.sha256(paths.encode(errors='surrogateescape')).hexdigest()[:16]}"
    settings = {
        name: value if isinstance(value, int | float | None) else str(value)
        for name, value in vars(config).items()
        if name not in ("out", "workers", "time_limit")
    }
    return {"photochrom": __version__, **settings, "files": source, "dali": has_dali()}


@contextmanager
def _claimed(config: PackConfig, identity: dict[str, Any]) -> Iterator[Path]:
    """Makes the target folder, keeps others from it, and yields its folder for what is not finished.

    Raises ValueError when the target holds anything but what a pack of this identity has left, or when another pack is
    at work in it. If what follows fails before anything is finished, nothing stays.
    """
    out = config.out
    created = not out.exists()
    try:
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out} is a file: name a new folder")
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write to {out}: {error.strerror}; name another folder") from None
    with sole_writer(out):
        work = out / WORK
        _check_target(out, identity)
        try:
            try:
                work.mkdir(exist_ok=True)
                with whole_file(work / "pack.json") as file:
                    file.write_text(json.dumps(identity))
            except OSError as error:
                raise ValueError(f"cannot write to {out}: {error.strerror}; name another folder") from None
            yield work
            shutil.rmtree(work)
        except BaseException:
            _leave(out, created)
            raise


def _check_target(out: Path, identity: dict[str, Any]) -> None:
    if not (out / WORK).exists():
        if (out / MANIFEST).exists():
            raise ValueError(f"{out} already holds a shard set: name a new folder, or remove it first")
        if strangers := sorted(path.name for path in out.iterdir()):
            raise ValueError(f"{out} is not empty (it holds {strangers[0]}): name a new folder")
        return
    state = out / WORK / "pack.json"
    before = json.loads(state.read_text()) if state.exists() else identity
    if changed := [name for name in identity if identity[name] != before.get(name)]:
        name = changed[0]
        raise ValueError(
            f"{out} holds an interrupted pack with {name} {before.get(name)}, where this one has {identity[name]}: "
            f"give the same to go on, or remove {out} to begin anew"
        )


def _leave(out: Path, created: bool) -> None:
    """Removes what would be of no use to a pack that goes on."""
    work = out / WORK
    if any(work.glob("*/photos-*.json")) or any(work.glob("spool/*")):
        return
    shutil.rmtree(work, ignore_errors=True)
    for root in (out / "train", out / "test", *([out] if created else [])):
        if root.is_dir() and not any(root.iterdir()):
            root.rmdir()


def _manifest_facts(
    config: PackConfig, tally: Tally, ab_histogram: Callable[[AbCounts], NDArray[np.float64]]
) -> dict[str, Any]:
    """All that the manifest says beside the shards: a pure function of the source, the settings and the seed."""
    gate = config.gate
    return {
        "photochrom": __version__,
        "source": str(config.source),
        "seed": config.seed,
        "image": {
            "short_side": gate.short_side,
            "resampler": photograph.RESAMPLER,
            "quality": gate.quality,
            "subsampling": ":".join(gate.subsampling),
            "decoded_by_dali": has_dali(),
        },
        **tally.manifest_facts(ab_histogram),
    }


def _nothing_packed(source: str, empty: list[str], tallies: Mapping[str, Tally]) -> str:
    if len(empty) < len(tallies):
        return f"no photograph of {source} falls to {empty[0]}: pack more of them, or without parts"
    total = sum_of(tallies.values())
    reasons = [f"{number} {reason}" for reason, number in total.rejected.most_common()]
    reasons += [f"{number} {reason} (--keep-grey packs them)" for reason, number in total.dropped.items()]
    if not reasons:
        return f"{source} holds no files, or none that the partition lists"
    return f"{source} holds no photograph that can be packed; of its {total.num_files} files: {', '.join(reasons)}"
