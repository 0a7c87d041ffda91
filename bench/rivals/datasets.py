"""The folder of what entries read: everything is made of the same photographs, once."""

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
from ...pipelines.output_dir import write_json
from ...pipelines.system import available_cpus
from .accuracy import write_reference
from .config import RivalsConfig
from .entries import SETS, WRITERS

Writer = Callable[[str, Path, Path], None]  # the rival, the folder of photographs, what to make of it


class Work:
    """Makes what is not there yet, and keeps how long it took.

    Args:
        config: Of the verb.
        folder: For all of it.
        write: Has a rival write its format.
    """

    def __init__(self, config: RivalsConfig, folder: Path, write: Writer) -> None:
        self._config, self._folder, self._write = config, folder, write
        self._threads = config.threads or available_cpus()
        (folder / "import").mkdir(exist_ok=True)
        package = folder / "import" / "photochrom"  # for interpreters that have our libraries, but not us
        package.unlink(missing_ok=True)
        package.symlink_to(Path(__file__).resolve().parents[2])

    def path(self, reads: str) -> Path:
        """Where it lies. What `write` raises when it cannot be made comes through."""
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
        """How many all of them read."""
        return len(list(self.path("files").iterdir()))

    def formats(self) -> list[dict[str, Any]]:
        """How long each took to be made, and how large it is."""
        notes = self._folder / "formats.json"
        return list(json.loads(notes.read_text()).values()) if notes.exists() else []

    def _note(self, reads: str, seconds: float, made: Path) -> None:
        num_bytes = sum(path.stat().st_size for path in (made, *made.rglob("*")) if path.is_file())
        note = {"reads": reads, "made_by": WRITERS.get(reads, "ours"), "seconds": seconds, "MB": num_bytes / 1e6}
        write_json(self._folder / "formats.json", {each["reads"]: each for each in [*self.formats(), note]})

    def _make(self, reads: str, source: Path | None, out: Path) -> None:
        if source is None:
            self._write_files(out)
        elif reads in SETS:
            settings = {"short_side": self._config.size * 9 // 8, "keep_grey": True} | SETS[reads][1]
            self._pack(source, out, **settings)
        elif reads == "squares":
            self._write_squares(source, out)
        elif reads == "reference":
            write_reference(source, out, self._config.size)
        else:
            self._write(WRITERS[reads], source, out)

    def _write_files(self, out: Path) -> None:
        config, gate = self._config, self._folder / "gate"
        self._pack(config.data, gate, short_side="none")
        shards = ShardSet.open(gate)
        out.mkdir()
        large = [i for i, sides in enumerate(shards.sizes.tolist()) if min(sides) >= config.size]
        chosen = large[: config.samples]  # at random: packing has shuffled them
        for i, jpeg in enumerate(LocalReader(shards).read(np.array(chosen, dtype=np.int64))):
            (out / f"{i:06}.jpg").write_bytes(jpeg.tobytes())
        if len(chosen) < config.batch_size:
            raise ValueError(
                f"{len(large)} of {shards.num_samples} photographs in {config.data} are no smaller than "
                f"{config.size} pixels, too few for a batch of {config.batch_size}: lower --batch-size or --size"
            )
        shutil.rmtree(gate)

    def _write_squares(self, source: Path, out: Path) -> None:
        side = self._config.size
        out.mkdir()
        for path in source.iterdir():
            squashed = Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
            squashed.save(out / f"{path.stem}.png")

    def _pack(self, source: Path, out: Path, **settings: Any) -> None:
        pack(PackConfig(source=source, out=out, workers=self._threads, **settings))


@contextmanager
def work_folder(config: RivalsConfig) -> Iterator[Path]:
    """The folder that is meant, or a temporary one. One that was made of other photographs raises ValueError."""
    if config.work is None:
        with tempfile.TemporaryDirectory(prefix="photochrom-") as folder:
            yield Path(folder)
        return
    config.work.mkdir(parents=True, exist_ok=True)
    label = config.work / "made-of.json"
    made_of = {"data": str(config.data.resolve()), "samples": config.samples, "size": config.size}
    if label.exists() and (found := json.loads(label.read_text())) != made_of:
        raise ValueError(f"{config.work} was made of {found}, not of {made_of}: name another folder by --work")
    if not label.exists() and any(config.work.iterdir()):
        raise ValueError(f"{config.work} holds other things: name a new folder by --work")
    write_json(label, made_of)
    yield config.work
