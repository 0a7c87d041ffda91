"""Writes one shard set from sorted files, and resumes an interrupted one.

A shard is written in a working folder, checked in the background, and moved into the set when it is whole and durable.
Then a journal says what the shard holds, and up to which sort key the source has been packed.
"""

import hashlib
import json
import re
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from ..files import atomic_write, sync
from ..imaging.decode import Rejected
from ..shards import SUFFIXES, Shard
from ..structured import read_json
from .dali_check import Samples
from .manifest import describe_shard
from .pack_config import PackConfig
from .pack_stats import PackStats
from .process_image import BEFORE_ALL, EncodedImage, ProcessedFile, SortKey
from .tar_writer import TarShard, without

MAX_SHARD_BYTES = 1 << 29  # a shard of this size is full; at most two shards are unpublished at any time

Check = Callable[[Samples], dict[int, str]]
_Sample = tuple[ProcessedFile, EncodedImage]


class ShardWriter:
    """Adds processed files, in the order of their sort keys, to the set in `root`.

    Unfinished shards are kept in the folder `work`, on the same disk. `check`, if there is one, runs in the
    `background` and names the samples of a finished shard that do not decode; they become rejects. Files up to the
    sort key `last_key` are packed already, and are ignored.
    """

    def __init__(
        self, root: Path, work: Path, config: PackConfig, *, check: Check | None, background: Executor
    ) -> None:
        root.mkdir(exist_ok=True)
        work.mkdir(exist_ok=True)
        self._root, self._work, self._config, self._check = root, work, config, check
        self.shards: list[Shard] = []
        self.last_key = BEFORE_ALL
        self.stats = PackStats()  # of all files up to `last_key`; after `finish`, of all
        self._resume()
        self._contents = set(self.stats.contents)
        self._unpublished = PackStats()  # of files after the last finished shard that are in no shard
        self._tar: TarShard | None = None  # the shard that is being written
        self._samples: list[_Sample] = []  # those of the shard, without their bytes
        self._next = 1 + int(self.shards[-1].name.removeprefix("photos-")) if self.shards else 0
        self._background = background
        self._pending: Future[Callable[[], None]] | None = None

    def add(self, file: ProcessedFile) -> None:
        if file.sort_key <= self.last_key:
            return
        result = file.result
        if isinstance(result, Rejected):
            self._unpublished.reject(file.path, result.reason, result.detail)
        elif result.is_grey and not self._config.keep_grey:
            self._unpublished.dropped["grey"] += 1
        elif self._is_duplicate(file) and self._config.drop_duplicates:
            self._unpublished.dropped["duplicate"] += 1
        else:
            self._store(file, result)

    def finish(self) -> None:
        """Finishes the last shard; then `shards` and `stats` describe the whole set."""
        if self._tar:
            self._finish_shard(self._tar)
        self._publish_pending()
        self.stats.update(self._unpublished)

    def close(self) -> None:
        """Stops, and removes unfinished shards."""
        if self._tar:
            with suppress(OSError):  # buffered bytes may find no space
                self._tar.close()
        if self._pending and not self._pending.cancel():
            wait([self._pending])  # its files are in use
        for path in (*self._work.glob("photos-*.tar"), *self._work.glob("photos-*.idx")):
            path.unlink()

    def _resume(self) -> None:
        """Takes over the shards that have a journal, and removes others."""
        while (journal := self._journal(len(self.shards))).exists():
            try:
                facts = read_json(journal, 1 << 30)
                self.shards.append(Shard(**facts["shard"]))
                self.last_key = (int(facts["last_key"][0]), str(facts["last_key"][1]))
                self.stats.update(PackStats.from_json(facts["stats"]))
            except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
                raise ValueError(f"{journal} is damaged ({error!r}): remove {self._root}, and pack anew") from None
        known = {shard.name for shard in self.shards}
        for path in self._root.glob("photos-*"):
            if path.stem not in known:
                path.unlink()
        for shard in self.shards:
            tar = self._root / f"{shard.name}.tar"
            if not tar.exists() or tar.stat().st_size != shard.bytes:
                raise ValueError(f"{tar} has changed since the interruption: remove {self._root}, and pack anew")

    def _journal(self, number: int) -> Path:
        return self._work / f"photos-{number:06d}.json"

    def _is_duplicate(self, file: ProcessedFile) -> bool:
        if file.content_hash not in self._contents:
            self._contents.add(file.content_hash)
            return False
        self._unpublished.num_duplicates += 1
        return True

    def _store(self, file: ProcessedFile, image: EncodedImage) -> None:
        if self._tar is None:
            self._tar = TarShard(path=self._work / f"photos-{self._next:06d}.tar")
            self._next += 1
        parts = {SUFFIXES[self._config.store]: image.data, "json": _sample_json(file, image)}
        self._tar.add(key_of(file.path), **parts)
        self._samples.append((replace(file, result=Rejected("")), replace(image, data=b"")))
        if len(self._samples) == self._config.shard_samples or self._tar.size >= MAX_SHARD_BYTES:
            self._finish_shard(self._tar)

    def _finish_shard(self, tar: TarShard) -> None:
        """Ends the shard, and has it checked in the background while the next one grows."""
        self._tar = None
        tar.finish()
        self._publish_pending()
        self._pending = self._background.submit(self._checked, tar, self._samples, self._unpublished)
        self._samples, self._unpublished = [], PackStats()

    def _publish_pending(self) -> None:
        """Waits until the previous shard is checked, and publishes it."""
        if self._pending is not None:
            publish = self._pending.result()
            self._pending = None
            publish()

    def _checked(self, tar: TarShard, samples: list[_Sample], stats: PackStats) -> Callable[[], None]:
        """Checks and describes a shard, in the background; returns a function that publishes it."""
        last_key = samples[-1][0].sort_key
        sizes = [image.size for _, image in samples]
        if self._check and (refused := self._check(Samples(tar=tar.path, lines=tar.lines, sizes=sizes))):
            for number, problem in refused.items():
                file = samples[number][0]
                stats.reject(file.path, "refused by DALI", problem)
                stats.contents.append(file.content_hash)  # its copies count as duplicates all the same
            tar = without(tar, refused)
            samples = [sample for number, sample in enumerate(samples) if number not in refused]
        shard = describe_shard(tar.path, [image.size for _, image in samples])
        for file, image in samples:
            stats.add_image(file, image)
        sync(tar.path)
        return lambda: self._publish(shard, last_key, stats)

    def _publish(self, shard: Shard, last_key: SortKey, stats: PackStats) -> None:
        if not shard.samples:  # DALI refused all of it
            self._unpublished.update(stats)
            return
        for suffix in ("tar", "idx"):
            name = f"{shard.name}.{suffix}"
            (self._work / name).rename(self._root / name)
        sync(self._root)
        with atomic_write(self._journal(len(self.shards))) as path:
            path.write_text(json.dumps({"last_key": last_key, "shard": asdict(shard), "stats": stats.to_json()}))
        self.shards.append(shard)
        self.last_key = last_key
        self.stats.update(stats)


def key_of(path: str) -> str:
    """Returns the sample's key: ASCII without dots, readable, and unique because it ends in a hash of the path."""
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(path).stem).strip("-")[:60]
    return f"{slug}-{hashlib.sha256(path.encode(errors='surrogateescape')).hexdigest()[:16]}"


def _sample_json(file: ProcessedFile, image: EncodedImage) -> bytes:
    width, height = image.size
    facts = {
        "path": file.path,
        "class": file.class_name,
        "width": width,
        "height": height,
        "original_size": image.original_size,
        "original_sha256": file.content_hash,
        "done": image.changes,
        "grey": image.is_grey,
    }
    return json.dumps(facts).encode()
