"""Reads a picture file with all that it carries: 16 bit, opacity, metadata; what is changed or lost is noted."""

# Shapes: H W pixels.

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from ...pipelines.imaging.decode import FORMATS, MAX_SIDE, Rejected, read_file, rejecting
from .metadata import ImageMetadata, metadata_of
from .pixels import Samples, is_deep, samples_of

MAX_PIXELS = 200_000_000  # the largest cameras have 151 million

_ORIENTATION = 0x0112
# How what EXIF's orientation describes becomes upright.
_TURNS: dict[int, Callable[[Samples], Samples]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An upright picture, sRGB (H, W, 3) in 8 or 16 bit.

    `alpha` (H, W), of the same depth, is its opacity, None where the file has none; `carried` is what else stood in the
    file, `notes` what was changed or lost on the way, in words that are the same for every file.
    """

    pixels: Samples
    alpha: Samples | None
    carried: ImageMetadata
    notes: tuple[str, ...]


def read_picture(source: Path, reserve: Callable[[int], None] = lambda amount: None) -> Picture:
    """The picture in a file; before it is decoded, `reserve` is told the bytes it will take until it is written.

    Raises Rejected.
    """
    data = read_file(source)
    if not data:
        raise Rejected("empty file")
    with rejecting():
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_size(image.size)
    width, height = image.size
    reserve(2 * 4 * (2 if is_deep(image) else 1) * width * height)  # as it is, and as it will be
    with rejecting():
        return _decoded(image, data)


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if max(size) > MAX_SIDE:
        raise Rejected("too many pixels", f"{width}x{height}, the longest side that is read is {MAX_SIDE}")
    if width * height > MAX_PIXELS:
        raise Rejected("too many pixels", f"{width}x{height}, the largest area that is read is {MAX_PIXELS}")


def _decoded(image: ImageFile.ImageFile, data: bytes) -> Picture:
    notes = ["only the first of its pictures taken"] if getattr(image, "is_animated", False) else []
    turned = image.tag_v2.get(_ORIENTATION) if isinstance(image, TiffImageFile) else None  # by Pillow, as it loads
    pixels, alpha, profile = samples_of(image, data, notes)
    turn = image.getexif().get(_ORIENTATION)  # after it has told of 16 bit, since of PNGs this loads all
    if turn in _TURNS:
        pixels, alpha = _TURNS[turn](pixels), None if alpha is None else _TURNS[turn](alpha)
    if turn in _TURNS or turned in _TURNS:
        notes.append("turned upright")
    return Picture(pixels=pixels, alpha=alpha, carried=metadata_of(image, data, profile, notes), notes=tuple(notes))
