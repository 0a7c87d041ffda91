"""Makes a shard set of WebDataset shards that others have made, without touching them: the index leaves out what would
not decode, or not to the colours that the packer would have stored.
"""

import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..imaging.decode import Rejected
from ..imaging.encode import EncodingSettings
from ..output_dir import claim_output
from ..shards import MANIFEST, REJECTS, Shard, describe, write_index, write_manifest, write_rejects
from ..system import available_cpus, has_dali
from .dali_check import DaliCheck, Samples
from .members import Unfit, members_of
from .process_image import EncodedImage, ImageWorkers, ProcessedFile
from .shard_writer import PackStats
from .wds_samples import PackedPhotograph, photographs_in
from .worker_pool import Progress, check_settings

_SOUND = ((), ("from PNG", "encoded"))  # what may have been done to a picture that readers see as the packer does
_BEFORE = ".before"  # behind the name of an index that was there
_MARK = ".indexing"  # there while an index is made
_BESIDE = (REJECTS, "config.yaml", "summary.json")  # what comes beside the shards, the manifest aside

_Sample = tuple[PackedPhotograph, ProcessedFile, EncodedImage]


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """Makes a shard set of WebDataset shards from elsewhere: writes an index beside each, and a manifest.

    The shards are not changed, and an index of another tool is kept as .idx.before. Photographs that do not decode, or
    that a packer would have changed, are left out of the index and listed in rejects.csv.

    Args:
        root: Folder of the shards, *.tar.
        workers: Processes that decode; by default one per CPU core.
        time_limit: Seconds after which a photograph that is not decoded counts as one that hangs its decoder.
        keep_grey: Also take photographs without colour (no |a| or |b| above 5).
    """

    root: Path
    workers: int | None = None
    time_limit: float = 60.0
    keep_grey: bool = False

    def __post_init__(self) -> None:
        check_settings(self.workers, self.time_limit)


def index(
    config: IndexConfig,
    *,
    progress: Progress = lambda done, total, unit: None,
    describe: Callable[[dict[str, Any]], None] = lambda summary: None,
) -> dict[str, Any]:
    """Indexes the shards in config.root and returns the figures of summary.json; the arguments are those of `pack`.

    Raises ValueError when there are no shards, no photograph that can be taken, or when it is a shard set already.
    """
    started = time.perf_counter()
    root = config.root
    tars = _tars(root)
    tally = PackStats()
    with claim_output(root, _check_names), _marked(root):
        found = _photographs(tars, tally)
        shards = _examined(config, found, tally, progress)
        if not shards:
            reasons = ", ".join(f"{number} {reason}" for reason, number in (tally.rejected + tally.dropped).items())
            raise ValueError(
                f"the shards in {root} hold no photograph that can be taken: {reasons or 'nothing at all'}"
            )
        seconds = round(time.perf_counter() - started, 3)
        summary = {"num_indexed": tally.num_packed, **tally.figures(shards), "seconds": seconds}
        describe(summary)
        write_rejects(root, tally.rejects)
        write_manifest(root, shards, **_manifest_facts(root, tally))
    return summary


def _check_names(root: Path) -> None:
    """Raises ValueError when a file of others has a name that is written here."""
    for name in _BESIDE:
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
    """Removes what is ours: what was there of others has been renamed, and comes back."""
    for path in (*root.glob("*.idx"), *(root / name for name in _BESIDE)):
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


def _photographs(tars: list[Path], tally: PackStats) -> dict[Path, list[PackedPhotograph]]:
    """The photographs of each shard, those aside that have no name of their own."""
    taken: set[str] = set()
    found: dict[Path, list[PackedPhotograph]] = {}
    for tar in tars:
        members: list[tarfile.TarInfo] = []
        try:
            for member in members_of(tar):
                members.append(member)  # noqa: PERF402 (extend would lose those before a cut)
        except (tarfile.TarError, OSError) as error:
            tally.reject(tar.name, "cut shard" if members else "no tar", str(error))
        else:
            if not members:
                tally.reject(tar.name, "empty shard", "")
        found[tar] = []
        for photograph in photographs_in(tar, members):
            path = photograph.entry.path
            if isinstance(photograph.entry.content, Unfit):
                tally.reject(path, photograph.entry.content.reason, photograph.entry.content.detail)
            elif path in taken:
                tally.reject(f"{path}#{tar.stem}", "duplicate name", f"another shard holds {path} too")
            else:
                found[tar].append(photograph)
            taken.add(path)
    return found


def _examined(
    config: IndexConfig, found: dict[Path, list[PackedPhotograph]], tally: PackStats, progress: Progress
) -> list[Shard]:
    """Passes every photograph through the gate, and writes the index of each shard that has any left."""
    number = config.workers or available_cpus()
    gate = EncodingSettings(short_side=None, quality=95, subsampling="444")  # which matter only to what is left out
    total, done = sum(map(len, found.values())), 0
    shards: list[Shard] = []
    contents: set[str] = set()
    with (
        DaliCheck(threads=number) as dali,
        ImageWorkers(gate, seed=0, number=number, seconds=config.time_limit) as examiners,
    ):
        outcomes = examiners.process(photograph.entry for photographs in found.values() for photograph in photographs)
        for tar, photographs in found.items():
            good: list[_Sample] = []
            for photograph in photographs:
                outcome = next(outcomes)
                done += 1
                progress(done, total, "photographs")
                if (picture := _taken(outcome, config.keep_grey, tally)) is not None:
                    good.append((photograph, outcome, replace(picture, data=b"")))
            refused = dali.refused(_samples(tar, good)) if has_dali() and good else {}
            for position, problem in refused.items():
                tally.reject(good[position][0].entry.path, "refused by DALI", problem)
            good = [sample for position, sample in enumerate(good) if position not in refused]
            for _, outcome, picture in good:
                tally.num_duplicates += outcome.content_hash in contents
                contents.add(outcome.content_hash)
                tally.store(outcome, picture)
            if good:
                shards.append(_write_index(tar, good))
    return shards


def _taken(outcome: ProcessedFile, keep_grey: bool, tally: PackStats) -> EncodedImage | None:
    """The picture, if readers will see it as the packer does; else it is counted."""
    result = outcome.result
    if isinstance(result, Rejected):
        tally.reject(outcome.path, result.reason, result.detail)
    elif result.is_grey and not keep_grey:
        tally.dropped["grey"] += 1
    elif result.changes not in _SOUND:
        tally.reject(outcome.path, "needs packing", ", ".join(result.changes))
    else:
        return result
    return None


def _line(photograph: PackedPhotograph) -> str:
    """The sample's line in DALI's index. Whatever the file is called, `jpg` is what the reader asks for."""
    content = photograph.entry.content
    parts = {"jpg": content, **photograph.parts}
    name = quote(photograph.name, errors="surrogateescape")  # a line is split at its spaces
    return " ".join(f"{kind} {part.offset} {part.size} {name}" for kind, part in parts.items())  # type: ignore[union-attr]


def _samples(tar: Path, good: list[_Sample]) -> Samples:
    lines = [_line(photograph) for photograph, _, _ in good]
    return Samples(tar=tar, lines=lines, sizes=[picture.size for _, _, picture in good])


def _write_index(tar: Path, good: list[_Sample]) -> Shard:
    samples = _samples(tar, good)
    write_index(tar, samples.lines)
    return describe(tar, samples.sizes)


def _manifest_facts(root: Path, tally: PackStats) -> dict[str, Any]:
    return {
        "source": str(root),
        "seed": None,
        "image": {"adopted": True, "short_side": None, "decoded_by_dali": has_dali()},
        **tally.manifest_facts(),
    }
