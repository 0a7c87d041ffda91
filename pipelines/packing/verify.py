"""Checks a shard set against its manifest, byte for byte, and on demand decodes every photograph."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..files import sha256_of
from ..imaging.decode import Rejected, decode
from ..remote import check_local
from ..shards import MANIFEST, SUFFIXES, Shard, ShardSet, manifest_digest
from ..system import available_cpus, has_dali
from .dali_check import DaliCheck, samples_of
from .members import Slice
from .worker_pool import Progress, TaskFailure, Workers, check_settings

_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Checks a shard set: the sizes and hashes of all its files, and of its manifest.

    Args:
        root: Folder of the shard set.
        decode: Also decode every photograph, strictly and by DALI, and compare the sizes; of Lab, count its bytes.
        workers: Processes for that; by default one per CPU core.
    """

    root: Path
    decode: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        check_local(self.root, "DIR")
        check_settings(self.workers, _SECONDS)


def verify(config: VerifyConfig, *, progress: Progress = lambda done, total, unit: None) -> list[str]:
    """What is wrong with the shard set, each in a sentence that names the file; nothing, if it is sound.

    Raises ValueError if it cannot be opened.
    """
    manifest = ShardSet.read_manifest(config.root)
    problems = []
    if manifest.get("sha256") != manifest_digest(manifest):
        problems.append(f"{config.root / MANIFEST} has been changed since it was written: its own hash differs")
    data = ShardSet.of_manifest(config.root, manifest)
    readable: list[Shard] = []
    for number, shard in enumerate(data.shards, start=1):
        found = list(_changes(config.root, shard))
        problems += found
        if set(found) <= {_other_content(config.root / f"{shard.name}.tar")}:  # its samples are where they were
            readable.append(shard)
        progress(number, len(data.shards), "shards")
    if not config.decode:
        return problems
    check = _misshapen if data.store == "lab" else _undecodable
    return problems + list(check(config, readable, progress))


def _changes(root: Path, shard: Shard) -> Iterator[str]:
    """How the files of one shard differ from what the manifest says."""
    for name, size, digest in (
        (f"{shard.name}.tar", shard.bytes, shard.sha256),
        (f"{shard.name}.idx", shard.index_bytes, shard.index_sha256),
    ):
        path = root / name
        if not path.exists():
            yield f"{path} is missing"
        elif (found := path.stat().st_size) != size:
            yield f"{path} has {found:,} bytes, where the manifest says {size:,}"
        elif sha256_of(path) != digest:
            yield _other_content(path)


def _other_content(path: Path) -> str:
    return f"{path} has other content than when the manifest was written"


def _misshapen(config: VerifyConfig, shards: list[Shard], progress: Progress) -> Iterator[str]:
    """The Lab of shards with sound indices that is not three planes of the photograph's size."""
    total = sum(shard.samples for shard in shards)
    done = 0
    for shard in shards:
        samples = samples_of(config.root / f"{shard.name}.tar", shard)
        try:
            with tarfile.open(samples.tar) as tar:
                members = {member.offset_data: member for member in tar}
        except tarfile.TarError as error:
            yield f"{samples.tar} is no tar any more: {error}"
            continue
        for line, (width, height) in zip(samples.lines, samples.sizes, strict=True):
            kind, offset, size, name, *_ = line.split(" ")
            done += 1
            progress(done, total, "photographs")
            member = members.get(int(offset))
            if kind != SUFFIXES["lab"] or member is None or member.name != name:
                yield f"{samples.tar}: {name} is not where the index says"
            elif wrong := {int(size), member.size} - {3 * height * width}:
                wanted = f"{width}x{height} takes {3 * height * width:,}"
                yield f"{samples.tar}: {name} has {max(wrong):,} bytes, where {wanted}"


def _undecodable(config: VerifyConfig, shards: list[Shard], progress: Progress) -> Iterator[str]:
    """The photographs of shards with sound indices that do not decode to the size that was stored."""
    number = config.workers or available_cpus()
    samples = {shard.name: samples_of(config.root / f"{shard.name}.tar", shard) for shard in shards}
    total = sum(shard.samples for shard in shards)
    done = 0
    with DaliCheck(threads=number) as dali, Workers(_decoded_size, number=number, seconds=_SECONDS) as workers:
        for shard in samples.values():
            places = [line.split(" ") for line in shard.lines]
            slices = [Slice(shard.tar, int(offset), int(size)) for _, offset, size, *_ in places]
            names = [name for _, _, _, name, *_ in places]
            refused = dali.refused(shard) if has_dali() else {}
            for position, (_, found) in enumerate(workers.map(slices)):
                done += 1
                progress(done, total, "photographs")
                if isinstance(found, TaskFailure):
                    found = f"{found.reason} the decoder ({found.detail})"
                if found != shard.sizes[position]:
                    wrong = found if isinstance(found, str) else f"{found[0]}x{found[1]}, not the stored size"
                    yield f"{shard.tar}: {names[position]} does not decode: {wrong}"
                elif position in refused:
                    yield f"{shard.tar}: {names[position]} does not decode by DALI: {refused[position]}"


def _decoded_size(content: Slice) -> tuple[int, int] | str:
    """Runs in a worker: width and height, or what is wrong."""
    try:
        pixels = decode(content.read()).pixels
    except Rejected as rejected:
        return str(rejected)
    return pixels.shape[1], pixels.shape[0]
