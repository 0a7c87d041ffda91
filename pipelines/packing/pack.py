"""Packs photographs into shard sets, once, so that training never meets a file that does not decode.

Workers process every file of the source (process_image.py). A source that can be listed is processed in the order of
the shards; the files of a stream are sorted on disk first. Then each goes to the writer of its set.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ... import __version__
from ..address import without_secrets
from ..class_names import part_of, read_partition
from ..imaging.encode import RESAMPLER
from ..output_dir import claim_resumable_output
from ..shards import WORK
from ..system import available_cpus, has_dali
from .dali_check import DaliCheck
from .external_sorter import ExternalSorter
from .manifest import write_manifest, write_rejects
from .members import LocalFile, NotTaken, SourceFile, TarMember, ZipMember
from .pack_config import PackConfig
from .pack_stats import PackStats, SourceAccount
from .process_image import ImageWorkers, ProcessedFile, sort_key
from .shard_writer import ShardWriter
from .sources import list_files
from .streams import Stream, open_stream
from .worker_pool import Progress, start_server

Partition = Mapping[str, str]  # path in SUN397 -> train or test


def pack(
    config: PackConfig,
    *,
    progress: Progress = lambda done, total, unit: None,
    on_summary: Callable[[dict[str, Any]], None] = lambda summary: None,
) -> dict[str, Any]:
    """Packs config.source into config.out and returns the entries of summary.json.

    `progress` is called with the amount done, the total and the unit: files, or MiB of a stream. `on_summary` is called
    with the summary when only the manifest is missing, which is written last.

    Raises ValueError when the source holds no photograph or the target is in use. The same command resumes a pack that
    was killed, interrupted or found no space, after its last finished shard. A pack that ends before its first shard
    leaves nothing.
    """
    started = time.perf_counter()
    source = str(config.source)
    if not source:
        raise ValueError("the source has no name: name a folder or an archive that holds photographs")
    if Path(source).is_dir() and config.out.resolve().is_relative_to(Path(source).resolve()):
        raise ValueError(f"{config.out} lies in {source}, which it is packed from: name a folder elsewhere")
    partition = None if config.partitions is None else read_partition(config.partitions, config.partition or 1)
    unread: dict[str, int] = {}
    files = list_files(source, unread)
    with ExitStack() as stack:
        stream = stack.enter_context(closing(open_stream(source))) if files is None else None
        identity = _identity(config, stream.identity if stream else _state_of(source, files or []), partition)
        work = stack.enter_context(claim_resumable_output(config.out, identity, job="pack", work_name=WORK))
        stack.enter_context(_explaining_write_errors(config.out))
        run = _PackRun(config, stack, work, partition, progress)
        run.account.unread |= unread
        run.pack(files, stream)
        if empty := [name for name, writer in run.writers.items() if not writer.shards]:
            _remove_all(config, work)
            raise ValueError(_nothing_packed(without_secrets(source), empty, run.stats))
        summary = run.summary(time.perf_counter() - started)
        on_summary(summary)
        for name, writer in run.writers.items():
            root = config.roots[name]
            write_rejects(root, writer.stats.rejects)
            write_manifest(root, writer.shards, **_manifest_facts(config, writer.stats))
    return summary


class _PackRun:
    """The workers and the writers of one run."""

    def __init__(
        self, config: PackConfig, stack: ExitStack, work: Path, partition: Partition | None, progress: Progress
    ) -> None:
        self._config, self._work, self._partition, self._progress = config, work, partition, progress
        self.account = SourceAccount()
        number = config.workers or available_cpus()
        start_server(*config.worker_modules)
        decodes = config.store == "jpeg" and has_dali()
        dali = stack.enter_context(DaliCheck(threads=number)) if decodes else None
        self._workers = stack.enter_context(
            ImageWorkers(config.encoding, seed=config.seed, number=number, seconds=config.time_limit)
        )
        background = stack.enter_context(ThreadPoolExecutor(1))  # one thread, because there is one DALI process
        check = dali.refused if dali else None
        self.writers: dict[str, ShardWriter] = {}
        for name, root in config.roots.items():
            writer = ShardWriter(root, self._work / (name or "all"), config, check=check, background=background)
            self.writers[name] = stack.enter_context(closing(writer))
        self._num_resumed = self.stats.num_files

    @property
    def stats(self) -> PackStats:
        """The statistics of all sets."""
        total = PackStats()
        for writer in self.writers.values():
            total.update(writer.stats)
        return total

    def pack(self, files: list[SourceFile] | None, stream: Stream | None) -> None:
        if stream:
            self._pack_stream(stream)
        else:
            self._pack_list(files or [])
        for writer in self.writers.values():
            writer.finish()

    def summary(self, seconds: float) -> dict[str, Any]:
        """Returns the entries of summary.json."""
        stats = self.stats
        num_files = stats.num_files
        stats.dropped += self.account.dropped
        shards = [shard for writer in self.writers.values() for shard in writer.shards]
        return {
            "num_packed": stats.num_packed,
            **stats.summary(shards),
            **self.account.summary(),
            "num_resumed": self._num_resumed,
            "sets": {str(self._config.roots[name]): writer.stats.num_packed for name, writer in self.writers.items()},
            "num_missing": len(self._partition) - num_files if self._partition else 0,
            "num_shared": self._num_shared(),
            "seconds": round(seconds, 3),
            "images_per_second": round((num_files - self._num_resumed) / seconds, 2),
        }

    def _num_shared(self) -> int:
        """Returns how many photographs are in both sets, under different names."""
        contents = [set(writer.stats.contents) for writer in self.writers.values()]
        return len(set.intersection(*contents)) if len(contents) > 1 else 0

    def _is_taken(self, file: SourceFile) -> bool:
        """True if the file is to be processed; else counts it."""
        if isinstance(file.content, NotTaken):
            self.account.not_taken[file.content.reason] += 1
            return False
        return True

    def _is_wanted(self, path: str) -> bool:
        return self._partition is None or part_of(path, self._partition) is not None

    def _set_of(self, file: ProcessedFile) -> str:
        if self._partition is not None:
            return part_of(file.path, self._partition) or ""
        if self._config.split is None:
            return ""
        # By content, so that copies of one photograph are all in one set.
        share = sort_key(file.content_hash or file.path, self._config.seed)[0] / 2**64
        return "train" if share < self._config.split else "test"

    def _pack_list(self, files: list[SourceFile]) -> None:
        """Processes the files in the order of their sort keys."""
        taken = [file for file in files if self._is_taken(file)]
        wanted = [file for file in taken if self._is_wanted(file.path)]
        self.account.num_files = len(files)
        self.account.dropped["in no partition"] = len(taken) - len(wanted)
        last_key, seed = min(writer.last_key for writer in self.writers.values()), self._config.seed
        keys = sorted((sort_key(file.path, seed), number) for number, file in enumerate(wanted))
        todo = [wanted[number] for key, number in keys if key > last_key]
        with closing(self._workers.process(todo)) as processed:
            for done, file in enumerate(processed, start=len(wanted) - len(todo) + 1):
                self.writers[self._set_of(file)].add(file)
                self._progress(done, len(wanted), "files")

    def _pack_stream(self, stream: Stream) -> None:
        """Processes the files as they come, sorts those of each set on disk, and then packs them in order."""
        sorters = {name: ExternalSorter(self._work / (name or "all") / "spool") for name in self.writers}
        if not all(sorter.is_complete for sorter in sorters.values()):
            self._sort(stream, sorters)
        self.account = next(iter(sorters.values())).account
        for name, sorter in sorters.items():
            writer = self.writers[name]
            for file in sorter.sorted_files(after=writer.last_key):
                writer.add(file)
                sorter.remove(until=writer.last_key)

    def _sort(self, stream: Stream, sorters: Mapping[str, ExternalSorter]) -> None:
        known = set().union(*(sorter.paths for sorter in sorters.values()))
        account = self.account

        def is_wanted(path: str) -> bool:
            wanted = self._is_wanted(path)
            account.num_files += 1
            account.dropped["in no partition"] += not wanted
            return wanted and path not in known

        with ExitStack() as stack:
            for sorter in sorters.values():
                stack.enter_context(closing(sorter))
            incoming = Path(stack.enter_context(TemporaryDirectory(dir=self._work)))
            files = filter(self._is_taken, stream.files(is_wanted, incoming))
            processed = stack.enter_context(closing(self._workers.process(files)))
            for file in processed:
                sorters[self._set_of(file)].add(file)
                self._progress(stream.position >> 20, stream.total and stream.total >> 20, "MiB")
        account.num_files += account.not_taken.total()
        account.unread |= stream.unread
        for sorter in sorters.values():
            sorter.complete(account)


def _state_of(source: str, files: list[SourceFile]) -> str:
    """Returns a hash of the files' paths, sizes and times; of an archive, of its own size and time."""
    status = Path(source).stat()
    digest = hashlib.sha256(b"" if Path(source).is_dir() else f"{status.st_size} {status.st_mtime_ns}".encode())
    for file in sorted(files, key=lambda file: file.path):
        digest.update(f"{file.path}\0{_size_and_time(file)}\0".encode(errors="surrogateescape"))
    return f"{len(files)} files of the state {digest.hexdigest()[:8]}"


def _size_and_time(file: SourceFile) -> str:
    """Returns the size and time of the file on disk that holds the content."""
    place = file.content.zip if isinstance(file.content, ZipMember) else file.content
    if not isinstance(place, LocalFile | TarMember):
        return ""
    try:
        status = place.path.stat()
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def _identity(config: PackConfig, files: str, partition: Partition | None) -> dict[str, Any]:
    """Returns what must be the same for a pack to resume an interrupted one."""
    settings = {  # an address may have another signature when the pack is resumed
        name: value if isinstance(value, int | float | None) else without_secrets(str(value))
        for name, value in vars(config).items()
        if name not in ("out", "workers", "time_limit")
    }
    parts = hashlib.sha256(json.dumps(partition, sort_keys=True).encode()).hexdigest()[:16]
    return {"photochrom": __version__, **settings, "files": files, "parts": parts, "dali": has_dali()}


@contextmanager
def _explaining_write_errors(out: Path) -> Iterator[None]:
    """Raises ValueError with one sentence for an OSError; errors of reading the source are ValueErrors already."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"cannot write to {out}: {error.strerror or error}; finished shards are kept: make room, and run the same "
            "command again to resume"
        ) from error


def _remove_all(config: PackConfig, work: Path) -> None:
    """Removes everything: the same command would end in the same way."""
    for folder in work.iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    for root in config.roots.values():
        for path in root.glob("photos-*"):
            path.unlink()


def _manifest_facts(config: PackConfig, stats: PackStats) -> dict[str, Any]:
    """Returns what the manifest holds beside the shards, a pure function of the source, the settings and the seed."""
    encoding = config.encoding
    image: dict[str, Any] = {"store": encoding.store, "short_side": encoding.short_side, "resampler": RESAMPLER}
    if encoding.store == "jpeg":
        subsampling = ":".join(encoding.subsampling)
        image |= {"quality": encoding.quality, "subsampling": subsampling, "decoded_by_dali": has_dali()}
    source = without_secrets(str(config.source))
    return {"source": source, "seed": config.seed, "image": image, **stats.manifest_facts()}


def _nothing_packed(source: str, empty_sets: list[str], stats: PackStats) -> str:
    if stats.num_packed:
        return f"no photograph of {source} falls to {empty_sets[0]}: pack more of them, or into one set"
    reasons = [f"{number} {reason}" for reason, number in stats.rejected.most_common()]
    reasons += [f"{number} {reason} (--keep-grey packs them)" for reason, number in stats.dropped.items()]
    if not reasons:
        return f"{source} holds no files, or none that the partition lists"
    return f"{source} holds no photograph that can be packed; of its {stats.num_files} files: {', '.join(reasons)}"
