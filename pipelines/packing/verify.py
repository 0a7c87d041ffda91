"""Checks a shard set against its manifest, byte for byte, and on demand decodes every photograph."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..files import sha256_of
from ..imaging.decode import Rejected, decode
from ..ranges import WORKERS, check_ranges
from ..remote import check_local
from ..shards import MANIFEST, Shard, ShardSet
from ..system import available_cpus, has_dali
from .dali_check import DaliCheck, Samples, samples_of
from .manifest import manifest_digest
from .members import TarMember
from .worker_pool import Progress, TaskFailure, Workers

_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Checks a shard set: the sizes and hashes of all its files, and of its manifest.

    Args:
        root: Folder of the shard set.
        decode: Also decode every photograph, strictly and by DALI, and compare the sizes. For Lab shards, check
            the byte counts.
        workers: Processes that decode; by default one per CPU core.
    """

    root: Path
    decode: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        check_local(self.root, "DIR")
        check_ranges(self, workers=WORKERS)


def verify(config: VerifyConfig, *, progress: Progress = lambda done, total, unit: None) -> list[str]:
    """Returns the problems of the shard set, one sentence each that names the file. Raises ValueError."""
    manifest = ShardSet.read_manifest(config.root)
    problems = []
    if manifest.get("sha256") != manifest_digest(manifest):
        problems.append(f"{config.root / MANIFEST} has been changed since it was written: its own hash differs")
    data = ShardSet.from_manifest(config.root, manifest)
    readable: list[Shard] = []
    for number, shard in enumerate(data.shards, start=1):
        changes = list(_changes(config.root, shard))
        problems += changes
        if set(changes) <= {_other_content(config.root / f"{shard.name}.tar")}:  # its samples are where they were
            readable.append(shard)
        progress(number, len(data.shards), "shards")
    if not config.decode:
        return problems
    check = _check_lab if data.store == "lab" else _check_images
    return problems + list(check(config, readable, progress))


def _changes(root: Path, shard: Shard) -> Iterator[str]:
    """Yields how the files of one shard differ from the manifest."""
    for name, size, digest in (
        (f"{shard.name}.tar", shard.bytes, shard.sha256),
        (f"{shard.name}.idx", shard.index_bytes, shard.index_sha256),
    ):
        path = root / name
        if not path.exists():
            yield f"{path} is missing"
        elif (size_now := path.stat().st_size) != size:
            yield f"{path} has {size_now:,} bytes, where the manifest says {size:,}"
        elif sha256_of(path) != digest:
            yield _other_content(path)


def _other_content(path: Path) -> str:
    return f"{path} has other content than when the manifest was written"


def _check_lab(config: VerifyConfig, shards: list[Shard], progress: Progress) -> Iterator[str]:
    """Yields the members that are not three planes of their photograph's size; the indices are sound."""
    total, done = sum(shard.samples for shard in shards), 0
    for shard in shards:
        samples = samples_of(config.root / f"{shard.name}.tar", shard)
        for line, (width, height) in zip(samples.lines, samples.sizes, strict=True):
            _, _, size, name, *_ = line.split(" ")
            done += 1
            progress(done, total, "photographs")
            if int(size) != (expected := 3 * height * width):
                yield f"{samples.tar}: {name} has {int(size):,} bytes, where {width}x{height} takes {expected:,}"


def _check_images(config: VerifyConfig, shards: list[Shard], progress: Progress) -> Iterator[str]:
    """Yields the photographs that do not decode to their stored size; the indices are sound."""
    number = config.workers or available_cpus()
    total, done = sum(shard.samples for shard in shards), 0
    with DaliCheck(threads=number) as dali, Workers(_decoded_size, number=number, seconds=_SECONDS) as workers:
        for shard in shards:
            samples = samples_of(config.root / f"{shard.name}.tar", shard)
            names, members = _members(samples)
            refused = dali.refused(samples) if has_dali() else {}
            for position, (_, size) in enumerate(workers.map(members)):
                done += 1
                progress(done, total, "photographs")
                if isinstance(size, TaskFailure):
                    size = f"{size.reason} the decoder ({size.detail})"
                if size != samples.sizes[position]:
                    problem = size if isinstance(size, str) else f"{size[0]}x{size[1]}, not the stored size"
                    yield f"{samples.tar}: {names[position]} does not decode: {problem}"
                elif position in refused:
                    yield f"{samples.tar}: {names[position]} does not decode by DALI: {refused[position]}"


def _members(samples: Samples) -> tuple[list[str], list[TarMember]]:
    """Returns the names and members of the photographs."""
    words = [line.split(" ") for line in samples.lines]
    members = [TarMember(samples.tar, int(offset), int(size)) for _, offset, size, *_ in words]
    return [name for _, _, _, name, *_ in words], members


def _decoded_size(member: TarMember) -> tuple[int, int] | str:
    """Returns width and height, or what is wrong; a worker's task."""
    try:
        height, width, _ = decode(member.read()).pixels.shape
    except Rejected as rejected:
        return str(rejected)
    return width, height
