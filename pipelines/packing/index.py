"""Makes a shard set of WebDataset shards from elsewhere, without changing them.

The index leaves out photographs that do not decode, or not to the colours that the packer would have stored.
"""

import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..imaging.decode import HEADER_REPAIRED, Rejected
from ..imaging.encode import EncodingSettings
from ..output_dir import claim_output
from ..ranges import SECONDS, WORKERS, check_ranges
from ..shards import MANIFEST, REJECTS, Shard
from ..system import available_cpus, has_dali
from .dali_check import DaliCheck, Samples
from .manifest import describe_shard, write_index, write_manifest, write_rejects
from .members import NotTaken, TarMember, Unreadable, tar_members
from .pack_stats import PackStats, SourceAccount
from .process_image import EncodedImage, ImageWorkers, ProcessedFile
from .wds_samples import ShardFile, shard_files
from .worker_pool import Progress

_HARMLESS_CHANGES = ((), HEADER_REPAIRED, ("from PNG", "encoded"))  # readers see these images as the packer does
_BEFORE = ".before"  # suffix of an index that was there
_MARK = ".indexing"  # exists while an index is made
_WRITTEN = (REJECTS, "config.yaml", "summary.json")  # files beside the shards, except the manifest

_Sample = tuple[ShardFile, ProcessedFile, EncodedImage]


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """Makes a shard set of WebDataset shards from elsewhere: writes an index beside each, and a manifest.

    The shards are not changed, and an index of another tool is kept as .idx.before. Photographs that do not decode, or
    that the packer would change, are left out of the index and listed in rejects.csv.

    Args:
        root: Folder of the shards, *.tar.
        workers: Processes that decode; by default one per CPU core.
        time_limit: Seconds after which a photograph that is not decoded yet is rejected.
        keep_grey: Also index photographs without colour (no |a| or |b| above 5).
    """

    root: Path
    workers: int | None = None
    time_limit: float = 60.0
    keep_grey: bool = False

    def __post_init__(self) -> None:
        check_ranges(self, workers=WORKERS, time_limit=SECONDS)


def index(
    config: IndexConfig,
    *,
    progress: Progress = lambda done, total, unit: None,
    on_summary: Callable[[dict[str, Any]], None] = lambda summary: None,
) -> dict[str, Any]:
    """Indexes the shards in config.root and returns the entries of summary.json; the arguments are those of `pack`.

    Raises ValueError when there are no shards, when no photograph can be indexed, or when it is a shard set already.
    """
    started = time.perf_counter()
    root = config.root
    tars = _tars(root)
    stats, others = PackStats(), _other_files(root)
    account = SourceAccount(num_files=others.total(), not_taken=others)
    with claim_output(root, _check_names), _marked(root):
        photographs = _photographs(tars, stats, account)
        class_by_tar = not account.not_taken["sidecar"]  # as in ImageNet's tars, one for each class
        if class_by_tar:
            photographs = {tar: [_of_class(tar.stem, file) for file in in_tar] for tar, in_tar in photographs.items()}
        shards = _index_shards(config, photographs, stats, progress)
        if not shards:
            reasons = ", ".join(f"{number} {reason}" for reason, number in (stats.rejected + stats.dropped).items())
            raise ValueError(
                f"the shards in {root} hold no photograph that can be indexed: {reasons or 'nothing at all'}"
            )
        seconds = round(time.perf_counter() - started, 3)
        facts = stats.summary(shards) | account.summary()
        summary = {"num_indexed": stats.num_packed, **facts, "seconds": seconds}
        on_summary(summary)
        write_rejects(root, stats.rejects)
        image = {"adopted": True, "short_side": None, "decoded_by_dali": has_dali(), "class_by_tar": class_by_tar}
        write_manifest(root, shards, source=str(root), seed=None, image=image, **stats.manifest_facts())
    return summary


def _check_names(root: Path) -> None:
    """Raises ValueError when a file of others has a name that is written here."""
    for name in _WRITTEN:
        if (root / name).exists() and not (root / _MARK).exists():
            raise ValueError(f"{root} holds a {name} that was not made by photochrom index: move it away first")


@contextmanager
def _marked(root: Path) -> Iterator[None]:
    """Renames the indices of others, and marks the folder, so that an interrupted run knows which files are its own."""
    mark = root / _MARK
    if not mark.exists():
        for path in root.glob("*.idx"):
            path.rename(path.with_name(path.name + _BEFORE))
        mark.touch()
    try:
        yield
    except BaseException:
        if not (root / MANIFEST).exists():
            _undo(root)
        raise
    finally:
        mark.unlink()


def _undo(root: Path) -> None:
    """Removes our files, and restores the indices of others."""
    for path in (*root.glob("*.idx"), *(root / name for name in _WRITTEN)):
        path.unlink(missing_ok=True)
    for path in root.glob(f"*.idx{_BEFORE}"):
        path.rename(path.with_suffix(""))


def _tars(root: Path) -> list[Path]:
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}: name one that holds WebDataset shards")
    if (root / MANIFEST).exists():
        raise ValueError(f"{root} is a shard set already ('photochrom verify {root}' checks it)")
    tars = sorted(root.glob("*.tar"))
    if not tars:
        raise ValueError(f"{root} holds no shards, which end in .tar: photochrom pack makes them of photographs")
    return tars


def _other_files(root: Path) -> Counter[str]:
    """Returns the number of files beside the shards by reason, except hidden ones and those written here."""
    others = [path for path in root.iterdir() if path.suffix not in (".tar", ".idx", _BEFORE)]
    return Counter("no .tar" for path in others if not path.name.startswith(".") and path.name not in _WRITTEN)


def _photographs(tars: list[Path], stats: PackStats, account: SourceAccount) -> dict[Path, list[ShardFile]]:
    """Returns the readable photographs of each shard; counts the other members."""
    photographs: dict[Path, list[ShardFile]] = {tar: [] for tar in tars}
    taken: set[str] = set()
    for tar in tars:
        for member in shard_files(tar, _members(tar, stats, account), tar.stem):
            path, content = member.file.path, member.file.content
            if isinstance(content, NotTaken):
                account.not_taken[content.reason] += 1
            elif path in taken:
                stats.reject(f"{path}#{tar.stem}", "duplicate name", f"another shard holds {path} too")
            elif isinstance(content, Unreadable):
                stats.reject(path, content.reason, content.detail)
            elif isinstance(content, TarMember) and content.sparse is not None:
                stats.reject(path, "needs packing", "a file with holes")
            else:
                photographs[tar].append(member)
            taken.add(path)
    return photographs


def _members(tar: Path, stats: PackStats, account: SourceAccount) -> list[tarfile.TarInfo]:
    """Returns the members up to where the tar is cut or damaged; counts such a tar as a reject."""
    members, problem = tar_members(TarMember(tar, 0, tar.stat().st_size), account.unread, tar.name)
    account.num_files += len(members) + bool(problem or not members)
    if problem:
        stats.reject(tar.name, "cut shard" if members else "no tar", problem)
    elif not members:
        stats.reject(tar.name, "empty shard", "")
    return members


def _of_class(name: str, photograph: ShardFile) -> ShardFile:
    """Returns the photograph in that class, unless it has one."""
    return replace(photograph, file=replace(photograph.file, class_name=photograph.file.class_name or name))


def _index_shards(
    config: IndexConfig, photographs: dict[Path, list[ShardFile]], stats: PackStats, progress: Progress
) -> list[Shard]:
    """Decodes every photograph, and writes the index of each shard that has any left."""
    number = config.workers or available_cpus()
    total, done = sum(map(len, photographs.values())), 0
    shards: list[Shard] = []
    contents: set[str] = set()
    with (
        DaliCheck(threads=number) as dali,
        ImageWorkers(EncodingSettings(), seed=0, number=number, seconds=config.time_limit) as workers,
    ):
        processed = workers.process(photograph.file for in_shard in photographs.values() for photograph in in_shard)
        for tar, in_shard in photographs.items():
            samples: list[_Sample] = []
            for photograph in in_shard:
                file = next(processed)
                done += 1
                progress(done, total, "photographs")
                if (image := _accepted(file, config.keep_grey, stats)) is not None:
                    samples.append((photograph, file, replace(image, data=b"")))
            refused = dali.refused(_dali_samples(tar, samples)) if has_dali() and samples else {}
            for position, problem in refused.items():
                stats.reject(samples[position][0].file.path, "refused by DALI", problem)
            samples = [sample for position, sample in enumerate(samples) if position not in refused]
            for _, file, image in samples:
                stats.num_duplicates += file.content_hash in contents
                contents.add(file.content_hash)
                stats.add_image(file, image)
            if samples:
                kept = _dali_samples(tar, samples)
                write_index(tar, kept.lines)
                shards.append(describe_shard(tar, kept.sizes))
    return shards


def _accepted(file: ProcessedFile, keep_grey: bool, stats: PackStats) -> EncodedImage | None:
    """Returns the image if readers will see it as the packer does; else counts why not."""
    result = file.result
    if isinstance(result, Rejected):
        stats.reject(file.path, result.reason, result.detail)
    elif result.is_grey and not keep_grey:
        stats.dropped["grey"] += 1
    elif result.changes not in _HARMLESS_CHANGES:
        stats.reject(file.path, "needs packing", ", ".join(result.changes))
    else:
        return result
    return None


def _index_line(photograph: ShardFile) -> str:
    """Returns the sample's line in DALI's index; the photograph is named jpg, which is what the reader asks for."""
    parts = {"jpg": photograph.file.content, **photograph.parts}
    name = quote(photograph.name, errors="surrogateescape")  # DALI splits lines at spaces
    return " ".join(f"{kind} {part.offset} {part.size} {name}" for kind, part in parts.items())  # type: ignore[union-attr]


def _dali_samples(tar: Path, samples: list[_Sample]) -> Samples:
    lines = [_index_line(photograph) for photograph, _, _ in samples]
    return Samples(tar=tar, lines=lines, sizes=[image.size for _, _, image in samples])
