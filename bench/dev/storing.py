"""Measures the ab error and the bytes of stored JPEGs: python -m photochrom.bench.dev.storing PHOTOS

Photographs are reduced as pack does. Each row is a quality and a chroma subsampling of the stored JPEG, or a scale at
which large JPEGs are decoded, with the error of ab against the exact reduction.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Group, RenderableType
from rich.table import Table
from skimage.color import rgb2lab

from ...pipelines.imaging.decode import Pixels, Rejected, decode, read_file, reduced_size
from ...pipelines.imaging.encode import Subsampling, encode_jpeg, resize
from ..common.results import Results, make_results, run_benchmark

_QUALITIES = (98, 95, 92, 90, 85, 75)
_SUBSAMPLINGS: tuple[Subsampling, ...] = ("444", "422", "420")
_SCALES = (1.0, 1.25, 1.5, 2.0)


@dataclass(frozen=True, kw_only=True)
class StoringOptions:
    """Measures the error of ab and the bytes by quality and subsampling, and the error of decoding at smaller scales.

    Args:
        photos: Folder of photographs.
        samples: Photographs to measure on, the largest of the folder.
        short_side: As that of pack.
        out: JSON file for the results.
    """

    photos: Path
    samples: int = 100
    short_side: int = 288
    out: Path | None = None


def main(argv: list[str]) -> int:
    prog = "python -m photochrom.bench.dev.storing"
    return run_benchmark(argv, StoringOptions, measure, prog=prog, table=table, positional=("photos",))


def table(results: Results) -> RenderableType:
    """Returns a table of the ways to store, and one of the scales."""
    tables = []
    for rows in filter(None, (results["rows"], results["scaled"])):
        tables.append(Table(*rows[0], box=None, header_style="bold"))
        for row in rows:
            tables[-1].add_row(*(value if isinstance(value, str) else f"{value:.3f}" for value in row.values()))
    return Group(*tables)


def measure(options: StoringOptions) -> Results:
    """Returns the error and bytes of each way to store, and the error and speed of each scale."""
    torch.set_num_threads(1)
    photographs = _largest(options)
    small = [_exact(data, options.short_side) for data in photographs]
    rows = [_stored(small, quality, subsampling) for subsampling in _SUBSAMPLINGS for quality in _QUALITIES]
    large = [data for data in photographs if _ratio(data, options.short_side) >= 2 * max(_SCALES[:2])]
    scaled = _scaled(large, options.short_side) if large else []
    default = next(row for row in rows if row["quality"] == "95" and row["subsampling"] == "444")
    verdict = (
        f"{len(photographs)} photographs; quality 95 at 444 has an RMSE of ab of {default['rmse_ab']:.2f} and takes "
        f"{default['KB']:.0f} KB; {len(large)} are large enough to decode at a smaller scale"
    )
    return make_results(options, torch.device("cpu"), rows, verdict) | {"scaled": scaled}


def _largest(options: StoringOptions) -> list[bytes]:
    """Returns the JPEGs with the longest short sides above --short-side."""
    jpegs: list[tuple[int, bytes]] = []
    for path in sorted(path for path in options.photos.rglob("*") if path.is_file()):
        data = read_file(path)
        try:
            _, size, done = decode(data)
        except Rejected:
            continue
        if not done and min(size) > options.short_side:
            jpegs.append((min(size), data))
    if not jpegs:
        raise ValueError(f"{options.photos} holds no JPEGs with sides above {options.short_side}")
    jpegs.sort(key=lambda photograph: -photograph[0])
    return [data for _, data in jpegs[: options.samples]]


def _size(data: bytes) -> tuple[int, int]:
    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    return width, height


def _ratio(data: bytes, short_side: int) -> float:
    return min(_size(data)) / short_side


def _exact(data: bytes, short_side: int) -> Pixels:
    """Returns the reduction of a full decode."""
    pixels = simplejpeg.decode_jpeg(data, colorspace="RGB")
    return resize(pixels, reduced_size(_size(data), short_side))


def _ab(pixels: Pixels) -> NDArray[np.float64]:
    return np.asarray(rgb2lab(pixels)[..., 1:])


def _rmse(pairs: Iterator[tuple[Pixels, Pixels]]) -> float:
    """Returns the RMSE of ab in Lab units, pooled over all pixels of all pictures."""
    errors = [((_ab(one) - _ab(other)) ** 2).ravel() for one, other in pairs]
    return float(np.sqrt(np.concatenate(errors).mean()))


def _stored(small: list[Pixels], quality: int, subsampling: Subsampling) -> dict[str, Any]:
    jpegs = [encode_jpeg(pixels, quality, subsampling) for pixels in small]
    decoded = (simplejpeg.decode_jpeg(jpeg, colorspace="RGB") for jpeg in jpegs)
    return {
        "quality": str(quality),
        "subsampling": subsampling,
        "rmse_ab": _rmse(zip(small, decoded, strict=True)),
        "KB": sum(map(len, jpegs)) / len(jpegs) / 1e3,
    }


def _scaled(large: list[bytes], short_side: int) -> list[dict[str, Any]]:
    """Returns a row for each scale: the error, and the fastest time of three."""
    decoders: dict[str, Callable[[bytes], Pixels]] = {
        "full, Pillow": _by_pillow(short_side),
        "full": _by_scale(short_side, None),
    }
    decoders |= {f"at least {scale}x": _by_scale(short_side, scale) for scale in _SCALES}
    best = dict.fromkeys(decoders, float("inf"))
    results: dict[str, list[Pixels]] = {}
    for _ in range(3):
        for name, decoder in decoders.items():
            started = time.perf_counter()
            results[name] = [decoder(data) for data in large]
            best[name] = min(best[name], (time.perf_counter() - started) / len(large))
    return [
        {
            "decoded": name,
            "ms": 1e3 * best[name],
            "times as fast": best["full"] / best[name],
            "rmse_ab": _rmse(zip(results["full"], results[name], strict=True)),
        }
        for name in decoders
    ]


def _by_scale(short_side: int, scale: float | None) -> Callable[[bytes], Pixels]:
    def decode_scaled(data: bytes) -> Pixels:
        size = reduced_size(_size(data), short_side)
        least = {} if scale is None else {"min_width": round(scale * size[0]), "min_height": round(scale * size[1])}
        return resize(simplejpeg.decode_jpeg(data, colorspace="RGB", min_factor=2, **least), size)

    return decode_scaled


def _by_pillow(short_side: int) -> Callable[[bytes], Pixels]:
    def decode_scaled(data: bytes) -> Pixels:
        picture = Image.fromarray(simplejpeg.decode_jpeg(data, colorspace="RGB"))
        return np.array(picture.resize(reduced_size(picture.size, short_side), Image.Resampling.BICUBIC))

    return decode_scaled


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
