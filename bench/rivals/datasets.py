"""Data sets that entries read, all made from the same photographs, once."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...pipelines import PackConfig, ShardSet, pack
from ...pipelines.loading.reader import LocalReader
from ...pipelines.system import available_cpus
from .accuracy import write_reference
from .command import RivalsOptions
from .entries import SETS, WRITERS

Writer = Callable[[str, Path, Path], None]  # rival, folder of photographs, output


class Datasets:
    """Makes data sets on first use.

    Args:
        options: Options of the verb.
        folder: Folder for all data sets.
        write: Makes a rival write its format.

    Attributes:
        formats: Time to make each data set, and its size.
    """

    def __init__(self, options: RivalsOptions, folder: Path, write: Writer) -> None:
        self._options, self._folder, self._write = options, folder, write
        self._threads = options.threads or available_cpus()
        self.formats: list[dict[str, Any]] = []

    def path(self, reads: str) -> Path:
        """Returns the path of a data set, made if it is not there yet."""
        out = self._folder / reads
        if out.exists():
            return out
        part = self._folder / f"{reads}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.unlink(missing_ok=True)
        source = None if reads == "files" else self.path(SETS[reads][0] if reads in SETS else "files")
        began = time.perf_counter()
        self._make(reads, source, part)
        seconds = time.perf_counter() - began
        num_bytes = sum(path.stat().st_size for path in (part, *part.rglob("*")) if path.is_file())
        made_by = WRITERS.get(reads, "photochrom")
        self.formats.append({"reads": reads, "made_by": made_by, "seconds": seconds, "MB": num_bytes / 1e6})
        part.rename(out)
        return out

    @property
    def num_photographs(self) -> int:
        """Photographs in every data set."""
        return len(list(self.path("files").iterdir()))

    def _make(self, reads: str, source: Path | None, out: Path) -> None:
        if source is None:
            self._write_files(out)
        elif reads in SETS:
            settings = {"short_side": self._options.size * 9 // 8, "keep_grey": True} | SETS[reads][1]
            pack(PackConfig(source=source, out=out, workers=self._threads, **settings))
        elif reads == "squares":
            _write_squares(source, out, self._options.size)
        elif reads == "reference":
            write_reference(source, out, self._options.size)
        else:
            self._write(WRITERS[reads], source, out)

    def _write_files(self, out: Path) -> None:
        options, packed = self._options, self._folder / "packed"
        pack(PackConfig(source=options.data, out=packed, workers=self._threads, short_side="none"))
        shards = ShardSet.open(packed)
        out.mkdir()
        large = [i for i, sides in enumerate(shards.sizes.tolist()) if min(sides) >= options.size]
        chosen = large[: options.samples]  # a random choice, as packing has shuffled them
        for i, jpeg in enumerate(LocalReader(shards).read(np.array(chosen, dtype=np.int64))):
            (out / f"{i:06}.jpg").write_bytes(jpeg.tobytes())
        if len(chosen) < options.batch_size:
            raise ValueError(
                f"{len(large)} of {shards.num_samples} photographs in {options.data} are no smaller than "
                f"{options.size} pixels, too few for a batch of {options.batch_size}: lower --batch-size or --size"
            )
        shutil.rmtree(packed)


def _write_squares(source: Path, out: Path, side: int) -> None:
    out.mkdir()
    for path in source.iterdir():
        squashed = Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
        squashed.save(out / f"{path.stem}.png")
