"""Data sets that entries read, all made from the same photographs, each on first use."""

import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.color import rgb2lab

from ...pipelines import PackConfig, ShardSet, pack
from ...pipelines.loading.reader import LocalReader
from .command import RivalsOptions
from .entries import SETS, WRITERS
from .task import files


def dataset(reads: str, folder: Path, options: RivalsOptions) -> Path:
    """Returns the path in `folder` of a data set, made if it is not there. Raises ImportError without its library."""
    out = folder / reads
    if out.exists():
        return out
    if reads == "files":
        _write_files(out, options)
        return out
    source = dataset(SETS[reads][0] if reads in SETS else "files", folder, options)
    if reads in SETS:
        settings = {"short_side": options.size * 9 // 8, "keep_grey": True} | SETS[reads][1]
        pack(PackConfig(source=source, out=out, workers=options.num_threads, **settings))
    elif reads == "squares":
        _write_squares(source, out, options.size)
    elif reads == "reference":
        _write_reference(source, out, options.size)
    else:
        import_module(f".{WRITERS[reads]}", __package__).write(str(source), str(out), options.num_threads)
    return out


def _write_files(out: Path, options: RivalsOptions) -> None:
    """Writes a random choice of the photographs that are no smaller than a batch, as pack stores them."""
    packed = out.with_name("packed")
    pack(PackConfig(source=options.data, out=packed, workers=options.num_threads, short_side="none"))
    shards = ShardSet.open(packed)
    large = np.flatnonzero(shards.sizes.min(axis=1) >= options.size)
    if len(large) < options.batch_size:
        raise ValueError(
            f"{len(large)} of {shards.num_samples} photographs in {options.data} are no smaller than "
            f"{options.size} pixels, too few for a batch of {options.batch_size}: lower --batch-size or --size"
        )
    out.mkdir()
    for i, jpeg in enumerate(LocalReader(shards).read(large[: options.samples])):  # shuffled by packing
        (out / f"{i:06}.jpg").write_bytes(jpeg.tobytes())
    shutil.rmtree(packed)


def _write_squares(source: Path, out: Path, side: int) -> None:
    out.mkdir()
    for path in source.iterdir():
        squashed = Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
        squashed.save(out / f"{path.stem}.png")


def _write_reference(folder: Path, out: Path, size: int) -> None:
    """Writes Lab (n, 3, S, S) of a folder's photographs, squashed by Pillow's bicubic filter, by scikit-image."""
    paths = files(str(folder))
    reference = np.lib.format.open_memmap(out, mode="w+", dtype=np.float32, shape=(len(paths), 3, size, size))
    for lab, path in zip(reference, paths, strict=True):
        picture = Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
        lab[:] = rgb2lab(np.asarray(picture, dtype=np.float64) / 255).transpose(2, 0, 1)
    reference.flush()
