"""Data sets that entries read, all made from the same photographs, once."""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...pipelines import PackConfig, ShardSet, pack
from ...pipelines.loading.reader import LocalReader
from ...pipelines.output_dir import check_holds, claim_output, write_json
from ...pipelines.system import available_cpus
from .accuracy import write_reference
from .config import RivalsOptions
from .entries import SETS, WRITERS

Writer = Callable[[str, Path, Path], None]  # rival, folder of photographs, output


class Datasets:
    """Makes data sets on first use, and notes how long it took.

    Args:
        options: Options of the verb.
        folder: Folder for all data sets.
        write: Makes a rival write its format.
    """

    def __init__(self, options: RivalsOptions, folder: Path, write: Writer) -> None:
        self._options, self._folder, self._write = options, folder, write
        self._threads = options.threads or available_cpus()
        (folder / "import").mkdir(exist_ok=True)
        package = folder / "import" / "photochrom"  # for interpreters of other environments
        package.unlink(missing_ok=True)
        package.symlink_to(Path(__file__).resolve().parents[2])

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
        self._note(reads, time.perf_counter() - began, part)
        part.rename(out)
        return out

    @property
    def num_photographs(self) -> int:
        """Photographs in every data set."""
        return len(list(self.path("files").iterdir()))

    def formats(self) -> list[dict[str, Any]]:
        """Returns the time to make each data set, and its size."""
        notes = self._folder / "formats.json"
        return list(json.loads(notes.read_text()).values()) if notes.exists() else []

    def _note(self, reads: str, seconds: float, made: Path) -> None:
        num_bytes = sum(path.stat().st_size for path in (made, *made.rglob("*")) if path.is_file())
        note = {"reads": reads, "made_by": WRITERS.get(reads, "photochrom"), "seconds": seconds, "MB": num_bytes / 1e6}
        write_json(self._folder / "formats.json", {made["reads"]: made for made in [*self.formats(), note]})

    def _make(self, reads: str, source: Path | None, out: Path) -> None:
        if source is None:
            self._write_files(out)
        elif reads in SETS:
            settings = {"short_side": self._options.size * 9 // 8, "keep_grey": True} | SETS[reads][1]
            self._pack(source, out, **settings)
        elif reads == "squares":
            self._write_squares(source, out)
        elif reads == "reference":
            write_reference(source, out, self._options.size)
        else:
            self._write(WRITERS[reads], source, out)

    def _write_files(self, out: Path) -> None:
        options, packed = self._options, self._folder / "packed"
        self._pack(options.data, packed, short_side="none")
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

    def _write_squares(self, source: Path, out: Path) -> None:
        side = self._options.size
        out.mkdir()
        for path in source.iterdir():
            squashed = Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
            squashed.save(out / f"{path.stem}.png")

    def _pack(self, source: Path, out: Path, **settings: Any) -> None:
        pack(PackConfig(source=source, out=out, workers=self._threads, **settings))


@contextmanager
def work_folder(options: RivalsOptions) -> Iterator[Path]:
    """Yields the folder --work or a temporary one. Raises ValueError if it holds data sets of other photographs."""
    if options.work is None:
        with tempfile.TemporaryDirectory(prefix="photochrom-") as folder:
            yield Path(folder)
        return
    label = options.work / "made-of.json"
    made_of = {"data": str(options.data.resolve()), "samples": options.samples, "size": options.size}

    def check(work: Path) -> None:
        check_holds(work, label.name, "data sets of this benchmark")
        if label.exists() and (others := json.loads(label.read_text())) != made_of:
            raise ValueError(f"{work} was made of {others}, not of {made_of}: name another folder with --work")

    with claim_output(options.work, check):
        write_json(label, made_of)
        yield options.work
