"""Packs photographs into shard sets, once, so that training never meets a file that does not decode.

Every file of the source becomes an outcome (outcomes.py) that worker processes make. Outcomes are brought into the
order of their places: those of a source that can be read in any order are made in it, those of a stream are spooled.
Then each goes to the writer of its set.
"""

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ... import __version__
from ..imaging.decode import MIN_SIDE
from ..imaging.encode import RESAMPLER, EncodingSettings, Subsampling
from ..output_dir import claim_resumable_output
from ..remote import check_local
from ..shards import WORK, Store, write_manifest, write_rejects
from ..system import available_cpus, has_dali
from .class_names import part_of, read_partition
from .dali_check import DaliCheck
from .external_sorter import ExternalSorter
from .http import without_secrets
from .members import Entry, LocalFile
from .process_image import ImageWorkers, ProcessedFile, sort_key
from .shard_writer import PackStats, ShardWriter
from .sources import listed
from .streams import Stream, open_stream
from .worker_pool import Progress, check_settings, start_server


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """Packs photographs into a shard set.

    Args:
        source: Folder (its subfolders are searched too), .tar, .tar.gz, .zip, URL of an archive, or a WebDataset.
        out: New folder for the shard set; one that an interrupted pack has left is finished by the same command.
        short_side: Reduce the short side to this many pixels, antialiased; 'none' keeps the original sizes.
        store: What is kept of each photograph: jpeg, or lab, which needs no decoder but 5 times the space.
        quality: JPEG quality of what is stored, 1 to 100.
        subsampling: Of the chroma of what is stored as JPEG; 444 keeps it whole.
        workers: Processes that decode and encode; by default one per CPU core.
        time_limit: Seconds after which a photograph that is not decoded counts as one that hangs its decoder.
        seed: Of the order in which photographs are stored, and of --split.
        keep_grey: Also pack photographs without colour (no |a| or |b| above 5); by default they are dropped.
        drop_duplicates: Pack of files with the same bytes only the first; they are counted in any case.
        split: Make two shard sets, OUT/train with this share of the photographs and OUT/test with the others.
        partitions: Make two shard sets, OUT/train and OUT/test, by SUN397's Partitions.zip or a folder of its files.
        partition: Which of SUN397's ten official partitions, 1 to 10; by default the first.
        shard_samples: Photographs per shard; fewer if they reach 512 MiB.
    """

    source: str | Path
    out: Path
    short_side: int | Literal["none"] = 288
    store: Store = "jpeg"
    quality: int = 95
    subsampling: Subsampling = "444"
    workers: int | None = None
    time_limit: float = 60.0
    seed: int = 0
    keep_grey: bool = False
    drop_duplicates: bool = False
    split: float | None = None
    partitions: Path | None = None
    partition: int | None = None
    shard_samples: int = 4096

    def __post_init__(self) -> None:
        smallest = MIN_SIDE
        if self.short_side != "none" and self.short_side < smallest:
            raise ValueError(f"--short-side {self.short_side} is below {smallest}, the smallest side that is packed")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"--quality {self.quality} is not between 1 and 100")
        if self.store == "lab" and (self.quality, self.subsampling) != (PackConfig.quality, PackConfig.subsampling):
            raise ValueError(
                "--quality and --subsampling have no effect on --store lab, which keeps no JPEG: omit them"
            )
        check_local(self.out, "OUT")
        check_settings(self.workers, self.time_limit)
        if self.seed < 0:
            raise ValueError(f"--seed {self.seed} is negative")
        if self.split is not None and not 0 < self.split < 1:
            raise ValueError(f"--split {self.split} is not between 0 and 1, as in --split 0.95")
        if self.split is not None and self.partitions is not None:
            raise ValueError("--split and --partitions exclude each other: give one of them")
        if self.partition is not None and self.partitions is None:
            raise ValueError(f"--partition {self.partition} is one of --partitions Partitions.zip: give both")
        if self.partition is not None and not 1 <= self.partition <= 10:
            raise ValueError(f"--partition {self.partition} is not between 1 and 10")
        if self.shard_samples < 1:
            raise ValueError(f"--shard-samples {self.shard_samples} is not a positive number of photographs")

    @property
    def gate(self) -> EncodingSettings:
        """How each photograph is made."""
        short_side = None if self.short_side == "none" else self.short_side
        return EncodingSettings(
            short_side=short_side, quality=self.quality, subsampling=self.subsampling, store=self.store
        )

    @property
    def worker_modules(self) -> tuple[str, ...]:
        """What workers are to have loaded before their time counts: Numba takes some of it."""
        return ("imaging.kernels",) if self.store == "lab" else ()

    @property
    def roots(self) -> dict[str, Path]:
        """The folders of the shard sets, by their names, of which the one of a single set is empty."""
        if self.split is None and self.partitions is None:
            return {"": self.out}
        return {name: self.out / name for name in ("train", "test")}


def pack(
    config: PackConfig,
    *,
    progress: Progress = lambda done, total, unit: None,
    describe: Callable[[dict[str, Any]], None] = lambda summary: None,
) -> dict[str, Any]:
    """Packs config.source into config.out and returns the figures of summary.json.

    `progress` is told how much is done, of how much, and in which unit: files, or MiB of a stream; `describe` is
    handed the figures when all is done but the manifest, which comes last.

    Raises ValueError when the source holds no photograph or the target is in use. A pack that is killed, interrupted or
    finds no space goes on, by the same command, from its last finished shard; one that ends before its first leaves
    nothing.
    """
    started = time.perf_counter()
    source = str(config.source)
    if not source:
        raise ValueError("the source has no name: name a folder or an archive that holds photographs")
    if Path(source).is_dir() and config.out.resolve().is_relative_to(Path(source).resolve()):
        raise ValueError(f"{config.out} lies in {source}, which it is packed from: name a folder elsewhere")
    partition = None if config.partitions is None else read_partition(config.partitions, config.partition or 1)
    entries = listed(source)
    with ExitStack() as stack:
        stream = stack.enter_context(closing(open_stream(source))) if entries is None else None
        identity = _identity(config, stream.identity if stream else _names(source, entries or []), partition)
        work = stack.enter_context(
            claim_resumable_output(config.out, identity, job="pack", work_name=WORK, has_progress=_has_progress)
        )
        stack.enter_context(_said_in_a_sentence(config.out))
        packing = _Packing(config, stack, work, partition, progress)
        packing.run(entries, stream)
        tallies = {name: writer.tally for name, writer in packing.writers.items()}
        if empty := [name for name, writer in packing.writers.items() if not writer.shards]:
            _abandon(config, work)
            raise ValueError(_nothing_packed(source, empty, tallies))
        summary = packing.summary()
        summary |= {"num_missing": _num_missing(partition, tallies), "num_shared": _num_shared(tallies)}
        seconds = time.perf_counter() - started
        num_files = sum(tally.num_files for tally in tallies.values()) - packing.num_resumed
        summary |= {"seconds": round(seconds, 3), "images_per_second": round(num_files / seconds, 2)}
        describe(summary)
        for name, writer in packing.writers.items():
            root = config.roots[name]
            write_rejects(root, writer.tally.rejects)
            write_manifest(root, writer.shards, **_manifest_facts(config, writer.tally))
    return summary


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
        number = config.workers or available_cpus()
        start_server(*config.worker_modules)
        decodes = config.store == "jpeg" and has_dali()
        dali = stack.enter_context(DaliCheck(threads=number)) if decodes else None
        self._examiners = stack.enter_context(
            ImageWorkers(config.gate, seed=config.seed, number=number, seconds=config.time_limit)
        )
        background = stack.enter_context(ThreadPoolExecutor(1))  # one thread: there is one DALI
        self.writers = {
            name: stack.enter_context(
                closing(
                    ShardWriter(
                        root,
                        self._folder(name),
                        shard_samples=config.shard_samples,
                        keep_grey=config.keep_grey,
                        drop_duplicates=config.drop_duplicates,
                        check=dali.refused if dali else None,
                        background=background,
                        store=config.store,
                    )
                )
            )
            for name, root in config.roots.items()
        }
        self.num_resumed = sum(writer.tally.num_files for writer in self.writers.values())

    def run(self, entries: list[Entry] | None, stream: Stream | None) -> None:
        if stream:
            self._pack_stream(stream)
        else:
            self._pack_list(entries or [])
        for writer in self.writers.values():
            writer.finish()

    def summary(self) -> dict[str, Any]:
        """What became of all files."""
        total = PackStats()
        for writer in self.writers.values():
            total.add(writer.tally)
        total.dropped += Counter({"in no partition": self.num_skipped})
        sets = {str(self._config.roots[name]): writer.tally.num_packed for name, writer in self.writers.items()}
        shards = [shard for writer in self.writers.values() for shard in writer.shards]
        return {"num_packed": total.num_packed, **total.figures(shards), "num_resumed": self.num_resumed, "sets": sets}

    def _folder(self, name: str) -> Path:
        """Where what is not finished of one set is kept."""
        return self._work / (name or "all")

    def _wanted(self, path: str) -> bool:
        return self._partition is None or part_of(path, self._partition) is not None

    def _set_of(self, outcome: ProcessedFile) -> str:
        if self._partition is not None:
            return part_of(outcome.path, self._partition) or ""
        if self._config.split is None:
            return ""
        # By content, so that copies of one photograph come to lie on one side.
        share = sort_key(outcome.content_hash or outcome.path, self._config.seed)[0] / 2**64
        return "train" if share < self._config.split else "test"

    def _pack_list(self, entries: list[Entry]) -> None:
        """Examines the files in the order of their places."""
        wanted = [entry for entry in entries if self._wanted(entry.path)]
        self.num_skipped = len(entries) - len(wanted)
        end, seed = min(writer.end for writer in self.writers.values()), self._config.seed
        placed = sorted((sort_key(entry.path, seed), number) for number, entry in enumerate(wanted))
        todo = [wanted[number] for place, number in placed if place > end]
        with closing(self._examiners.process(todo)) as outcomes:
            for done, outcome in enumerate(outcomes, start=len(wanted) - len(todo) + 1):
                self.writers[self._set_of(outcome)].add(outcome)
                self._progress(done, len(wanted), "files")

    def _pack_stream(self, stream: Stream) -> None:
        """Examines the files as they come, and spools the outcomes of each set; then takes them out in order."""
        spools = {name: ExternalSorter(self._folder(name) / "spool") for name in self.writers}
        if not all(spool.is_complete for spool in spools.values()):
            self._spool(stream, spools)
        for name, spool in spools.items():
            self.num_skipped = spool.num_skipped
            writer = self.writers[name]
            for outcome in spool.outcomes(after=writer.end):
                writer.add(outcome)
                spool.forget(writer.end)

    def _spool(self, stream: Stream, spools: Mapping[str, ExternalSorter]) -> None:
        known = set().union(*(spool.paths for spool in spools.values()))
        incoming = self._work / "incoming"
        incoming.mkdir(exist_ok=True)
        num_skipped = 0

        def wanted(path: str) -> bool:
            nonlocal num_skipped
            num_skipped += not self._wanted(path)
            return self._wanted(path) and path not in known

        with ExitStack() as stack:
            for spool in spools.values():
                stack.enter_context(closing(spool))
            outcomes = stack.enter_context(closing(self._examiners.process(stream.entries(wanted, incoming))))
            for outcome in outcomes:
                spools[self._set_of(outcome)].add(outcome)
                self._progress(stream.position >> 20, stream.total and stream.total >> 20, "MiB")
        shutil.rmtree(incoming)
        for spool in spools.values():
            spool.complete(num_skipped=num_skipped)


def _names(source: str, entries: list[Entry]) -> str:
    """What tells other files from these: their paths, lengths and dates; of an archive, its own."""
    status = Path(source).stat()
    digest = hashlib.sha256(b"" if Path(source).is_dir() else f"{status.st_size} {status.st_mtime_ns}".encode())
    for entry in sorted(entries, key=lambda entry: entry.path):
        digest.update(f"{entry.path}\0{_dated(entry)}\0".encode(errors="surrogateescape"))
    return f"{len(entries)} files of the state {digest.hexdigest()[:8]}"


def _dated(entry: Entry) -> str:
    if not isinstance(entry.content, LocalFile):
        return ""
    try:
        status = entry.content.file.stat()
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def _identity(config: PackConfig, files: str, partition: Mapping[str, str] | None) -> dict[str, Any]:
    """What must be the same for a pack to go on where another was interrupted."""
    settings = {
        name: value if isinstance(value, int | float | None) else str(value)
        for name, value in vars(config).items()
        if name not in ("out", "workers", "time_limit")
    }
    parts = hashlib.sha256(json.dumps(partition, sort_keys=True).encode()).hexdigest()[:16]
    return {"photochrom": __version__, **settings, "files": files, "parts": parts, "dali": has_dali()}


def _has_progress(work: Path) -> bool:
    """Returns whether a pack could continue from what is in its working folder."""
    return any(work.glob("*/photos-*.json")) or any(work.glob("*/spool/*"))


@contextmanager
def _said_in_a_sentence(out: Path) -> Iterator[None]:
    """Says what cannot be written; sources say by themselves what cannot be read."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"cannot write to {out}: {error.strerror or error}; what is finished stays: make room, and run the same "
            "command again to go on"
        ) from error


def _abandon(config: PackConfig, work: Path) -> None:
    """Removes all: the same command would come to the same end."""
    for folder in work.iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    for root in config.roots.values():
        for path in root.glob("photos-*"):
            path.unlink()


def _num_missing(partition: Mapping[str, str] | None, tallies: Mapping[str, PackStats]) -> int:
    """How many of the partition's photographs the source does not hold."""
    return len(partition) - sum(tally.num_files for tally in tallies.values()) if partition else 0


def _num_shared(tallies: Mapping[str, PackStats]) -> int:
    """How many contents are in more than one set, under other names."""
    contents = [set(tally.contents) for tally in tallies.values()]
    return len(set.intersection(*contents)) if len(contents) > 1 else 0


def _manifest_facts(config: PackConfig, tally: PackStats) -> dict[str, Any]:
    """All that the manifest says beside the shards: a pure function of the source, the settings and the seed."""
    gate = config.gate
    image: dict[str, Any] = {"store": gate.store, "short_side": gate.short_side, "resampler": RESAMPLER}
    if gate.store == "jpeg":
        image |= {"quality": gate.quality, "subsampling": ":".join(gate.subsampling), "decoded_by_dali": has_dali()}
    return {
        "source": without_secrets(str(config.source)),
        "seed": config.seed,
        "image": image,
        **tally.manifest_facts(),
    }


def _nothing_packed(source: str, empty: list[str], tallies: Mapping[str, PackStats]) -> str:
    if len(empty) < len(tallies):
        return f"no photograph of {source} falls to {empty[0]}: pack more of them, or without parts"
    total = PackStats()
    for tally in tallies.values():
        total.add(tally)
    reasons = [f"{number} {reason}" for reason, number in total.rejected.most_common()]
    reasons += [f"{number} {reason} (--keep-grey packs them)" for reason, number in total.dropped.items()]
    if not reasons:
        return f"{source} holds no files, or none that the partition lists"
    return f"{source} holds no photograph that can be packed; of its {total.num_files} files: {', '.join(reasons)}"
