"""What storing photographs costs their colours, and their bytes: python -m photochrom.bench.dev.storing PHOTOS

Photographs are reduced as pack does. Each row is one way to do it: a quality and a chroma subsampling of the JPEG that
is stored, or a scale at which large JPEGs are decoded; beside it the error of ab against the exact reduction.
"""

import json
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
from rich.console import Console
from rich.table import Table
from skimage.color import rgb2lab

from ...engine.configuration.parser import parse_options
from ...pipelines.imaging.decode import Pixels, Rejected, decode, read_file, reduced_size
from ...pipelines.imaging.encode import Subsampling, encode_jpeg, resize
from ..common.results import figures

_QUALITIES = (98, 95, 92, 90, 85, 75)
_SUBSAMPLINGS: tuple[Subsampling, ...] = ("444", "422", "420")
_SCALES = (1.0, 1.25, 1.5, 2.0)


@dataclass(frozen=True, kw_only=True)
class StoringConfig:
    """Measures the error of ab, and the bytes, of each quality and subsampling, and of decoding at smaller scales.

    Args:
        photos: Folder of photographs.
        samples: Photographs to measure on, the largest of the folder.
        short_side: As that of pack.
        out: File for the figures as JSON.
    """

    photos: Path
    samples: int = 100
    short_side: int = 288
    out: Path | None = None


def main(argv: list[str]) -> int:
    config = parse_options(StoringConfig, argv, prog="python -m photochrom.bench.dev.storing", positional=("photos",))
    found = measure(config)
    if config.out:
        config.out.write_text(json.dumps(found, indent=1) + "\n")
    for rows in (found["rows"], found["scaled"]):
        table = Table(*rows[0], box=None, header_style="bold") if rows else Table()
        for row in rows:
            table.add_row(*(value if isinstance(value, str) else f"{value:.3f}" for value in row.values()))
        Console(file=sys.stdout).print(table)
    print(found["verdict"])
    return 0


def measure(config: StoringConfig) -> dict[str, Any]:
    """Error and bytes of each way to store, error and speed of each scale."""
    torch.set_num_threads(1)
    photographs = _largest(config)
    small = [_exact(data, config.short_side) for data in photographs]
    rows = [_stored(small, quality, subsampling) for subsampling in _SUBSAMPLINGS for quality in _QUALITIES]
    large = [data for data in photographs if _ratio(data, config.short_side) >= 2 * max(_SCALES[:2])]
    scaled = _scaled(large, config.short_side) if large else []
    default = next(row for row in rows if row["quality"] == "95" and row["subsampling"] == "444")
    verdict = (
        f"{len(photographs)} photographs; quality 95 at 444 costs ab {default['rmse_ab']:.2f} of RMSE and takes "
        f"{default['KB']:.0f} KB; {len(large)} are large enough to be decoded at a smaller scale"
    )
    return figures(config, torch.device("cpu"), rows, verdict) | {"scaled": scaled}


def _largest(config: StoringConfig) -> list[bytes]:
    """The JPEGs with the longest short sides that are to be reduced_size."""
    found: list[tuple[int, bytes]] = []
    for path in sorted(path for path in config.photos.rglob("*") if path.is_file()):
        data = read_file(path)
        try:
            _, size, done = decode(data)
        except Rejected:
            continue
        if not done and min(size) > config.short_side:
            found.append((min(size), data))
    if not found:
        raise ValueError(f"{config.photos} holds no JPEGs with sides above {config.short_side}")
    found.sort(key=lambda photograph: -photograph[0])
    return [data for _, data in found[: config.samples]]


def _size(data: bytes) -> tuple[int, int]:
    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    return width, height


def _ratio(data: bytes, short_side: int) -> float:
    return min(_size(data)) / short_side


def _exact(data: bytes, short_side: int) -> Pixels:
    """The reduction of a full decode."""
    pixels = simplejpeg.decode_jpeg(data, colorspace="RGB")
    return resize(pixels, reduced_size(_size(data), short_side))


def _ab(pixels: Pixels) -> NDArray[np.float64]:
    return np.asarray(rgb2lab(pixels)[..., 1:])


def _rmse(pairs: Iterator[tuple[Pixels, Pixels]]) -> float:
    """Of ab, in Lab units, pooled over all pixels of all pictures."""
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
    """Each scale in turn, three times; the error is the same each time, the times are those of the fastest."""
    ways: dict[str, Callable[[bytes], Pixels]] = {
        "full, Pillow": _by_pillow(short_side),
        "full": _by_scale(short_side, None),
    }
    ways |= {f"at least {scale}x": _by_scale(short_side, scale) for scale in _SCALES}
    best = dict.fromkeys(ways, float("inf"))
    results: dict[str, list[Pixels]] = {}
    for _ in range(3):
        for name, way in ways.items():
            started = time.perf_counter()
            results[name] = [way(data) for data in large]
            best[name] = min(best[name], (time.perf_counter() - started) / len(large))
    return [
        {
            "decoded": name,
            "ms": 1e3 * best[name],
            "times as fast": best["full"] / best[name],
            "rmse_ab": _rmse(zip(results["full"], results[name], strict=True)),
        }
        for name in ways
    ]


def _by_scale(short_side: int, scale: float | None) -> Callable[[bytes], Pixels]:
    def way(data: bytes) -> Pixels:
        size = reduced_size(_size(data), short_side)
        least = {} if scale is None else {"min_width": round(scale * size[0]), "min_height": round(scale * size[1])}
        return resize(simplejpeg.decode_jpeg(data, colorspace="RGB", min_factor=2, **least), size)

    return way


def _by_pillow(short_side: int) -> Callable[[bytes], Pixels]:
    def way(data: bytes) -> Pixels:
        picture = Image.fromarray(simplejpeg.decode_jpeg(data, colorspace="RGB"))
        return np.array(picture.resize(reduced_size(picture.size, short_side), Image.Resampling.BICUBIC))

    return way


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
