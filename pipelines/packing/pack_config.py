"""The settings of `photochrom pack`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..imaging.decode import MIN_SIDE
from ..imaging.encode import EncodingSettings, Subsampling
from ..ranges import COUNT, SECONDS, SEED, SIDE, WORKERS, check_ranges
from ..remote import check_local
from ..shards import Store


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """Packs photographs into a shard set.

    Args:
        source: Folder (with its subfolders), .tar, .tar.gz, .zip, URL of an archive, or a WebDataset.
        out: New folder for the shard set. The same command resumes an interrupted pack.
        short_side: Reduce the short side to this many pixels, antialiased. none: keep the original sizes.
        store: jpeg, or lab: needs no decoder in training, but 5 times the space.
        quality: JPEG quality, 1 to 100.
        subsampling: Chroma subsampling of the JPEGs; 444 keeps full chroma.
        workers: Processes that decode and encode; by default one per CPU core.
        time_limit: Seconds after which a photograph that is not decoded yet is rejected.
        seed: Seed of the order in which photographs are stored, and of --split.
        keep_grey: Also pack photographs without colour (no |a| or |b| above 5). They are dropped by default.
        drop_duplicates: Pack only the first of files with the same bytes. Duplicates are always counted.
        split: Make two shard sets: OUT/train with this share of the photographs, OUT/test with the others.
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
        if self.short_side != "none" and self.short_side < MIN_SIDE:
            raise ValueError(f"--short-side {self.short_side} is below {MIN_SIDE}, the smallest side that is packed")
        check_ranges(self, quality=(1, 100), partition=(1, 10), short_side=SIDE, workers=WORKERS)
        check_ranges(self, time_limit=SECONDS, seed=SEED, shard_samples=COUNT)
        if self.store == "lab" and (self.quality, self.subsampling) != (PackConfig.quality, PackConfig.subsampling):
            raise ValueError(
                "--quality and --subsampling have no effect on --store lab, which keeps no JPEG: omit them"
            )
        check_local(self.out, "OUT")
        self._check_sets()

    def _check_sets(self) -> None:
        if self.split is not None and not 0 < self.split < 1:
            raise ValueError(f"--split {self.split} is not between 0 and 1, as in --split 0.95")
        if self.split is not None and self.partitions is not None:
            raise ValueError("--split and --partitions exclude each other: give one of them")
        if self.partition is not None and self.partitions is None:
            raise ValueError(f"--partition {self.partition} is one of --partitions Partitions.zip: give both")

    @property
    def encoding(self) -> EncodingSettings:
        """The image settings."""
        short_side = None if self.short_side == "none" else self.short_side
        return EncodingSettings(
            short_side=short_side, quality=self.quality, subsampling=self.subsampling, store=self.store
        )

    @property
    def worker_modules(self) -> tuple[str, ...]:
        """Modules that workers load before their time counts; Numba takes some seconds."""
        return ("imaging.kernels",) if self.store == "lab" else ()

    @property
    def roots(self) -> dict[str, Path]:
        """The folders of the shard sets by name; the name of a single set is empty."""
        if self.split is None and self.partitions is None:
            return {"": self.out}
        return {name: self.out / name for name in ("train", "test")}
