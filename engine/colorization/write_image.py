"""Writes pictures with all that they carry, as far as their format can hold it; what it cannot is noted."""

# Shapes: H W pixels, C channels: 3, or 4 with opacity.

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from ...pipelines.files import atomic_write
from ...pipelines.imaging.decode import Rejected
from .pixels import Samples, in_8_bit
from .read_image import Picture

_SEGMENT = 65_533  # bytes that one of a JPEG's holds
_WEBP_SIDE = 16_383
_STRIP = 1 << 20  # bytes of a TIFF's, before they are packed


def kind_of(target: Path) -> str | None:
    """The format that a name asks for: JPEG, PNG, WEBP or TIFF; None for any other name."""
    return _KINDS.get(target.suffix.lower())


def write_picture(picture: Picture, target: Path) -> tuple[str, ...]:
    """Writes a picture in the format that the name asks for; what was lost is added to its notes, which are returned.

    Raises Rejected when the format cannot hold it.
    """
    kind = kind_of(target)
    assert kind is not None
    notes = list(picture.notes)
    data = _WRITERS[kind](picture, notes)
    with atomic_write(target) as file:
        file.write_bytes(data)
    return tuple(notes)


def _jpeg(picture: Picture, notes: list[str]) -> bytes:
    carried, pixels = picture.carried, _shallow(picture.pixels, notes)
    if picture.alpha is not None:
        notes.append("laid on white")
        opaque = in_8_bit(picture.alpha)[..., None] / np.float32(255)
        pixels = (pixels * opaque + 255 * (1 - opaque)).round().astype(np.uint8)
    _note_losses(notes, texts=carried.text, TIFF_tags=carried.tags)
    room = _SEGMENT - 6
    exif = carried.exif if carried.exif and len(carried.exif) <= room else None
    _note_losses(notes, EXIF=carried.exif if exif is None else None)
    more: dict[str, Any] = {"xmp": carried.xmp} if carried.xmp and not carried.segments else {}
    return _by_pillow(
        pixels,
        "JPEG",
        quality=95,
        subsampling=0,
        exif=b"Exif\0\0" + exif if exif else b"",
        icc_profile=carried.icc,
        dpi=carried.dpi or (0, 0),
        comment=carried.comment,
        extra=carried.segments,
        **more,
    )


def _webp(picture: Picture, notes: list[str]) -> bytes:
    carried, height, width = picture.carried, *picture.pixels.shape[:2]
    if max(height, width) > _WEBP_SIDE:
        raise Rejected("too many pixels", f"{width}x{height}, the longest side of a WebP is {_WEBP_SIDE}")
    samples = _with_alpha(_shallow(picture.pixels, notes), picture.alpha)
    _note_losses(notes, texts=carried.text, comment=carried.comment, IPTC=carried.segments, TIFF_tags=carried.tags)
    more = {name: it for name, it in (("exif", carried.exif), ("icc_profile", carried.icc), ("xmp", carried.xmp)) if it}
    return _by_pillow(samples, "WEBP", quality=95, lossless=carried.lossless, exact=True, **more)


def _png(picture: Picture, notes: list[str]) -> bytes:
    carried, texts = picture.carried, PngInfo()
    for key, value in carried.text:
        texts.add_text(key, value)
    if carried.xmp:
        texts.add_itxt("XML:com.adobe.xmp", carried.xmp.decode("utf-8", "replace"))
    if carried.comment:
        texts.add_text("Comment", carried.comment.decode("utf-8", "replace"))
    _note_losses(notes, IPTC=carried.segments, TIFF_tags=carried.tags)
    more: dict[str, Any] = {"dpi": carried.dpi} if carried.dpi else {}
    more |= {"exif": carried.exif, "icc_profile": carried.icc, "pnginfo": texts}
    samples = _with_alpha(picture.pixels, picture.alpha)
    if samples.dtype == np.uint8:
        return _by_pillow(samples, "PNG", **more)
    return _png_in_16_bit(samples, _by_pillow(np.zeros((1, 1, samples.shape[2]), np.uint8), "PNG", **more))


def _png_in_16_bit(samples: Samples, frame: bytes) -> bytes:
    """The PNG `frame` with 16-bit samples (H, W, C) for its pixels: Pillow writes none with colours."""
    height, width, channels = samples.shape
    parts = [frame[:8]]
    for name, body in _chunks(frame):
        if name == b"IHDR":
            body = struct.pack(">IIBBBBB", width, height, 16, 2 if channels == 3 else 6, 0, 0, 0)
        if name == b"IDAT":
            body = _packed_rows(samples)
        parts.append(struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)))
    return b"".join(parts)


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 8
    while place < len(png):
        (length,) = struct.unpack_from(">I", png, place)
        yield png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        place += 12 + length


def _packed_rows(samples: Samples) -> bytes:
    """Rows as PNG packs them, each as what it adds to the one above (filter 2)."""
    rows = samples.astype(">u2").view(np.uint8).reshape(len(samples), -1)
    above = np.concatenate([np.zeros_like(rows[:1]), rows[:-1]])
    return zlib.compress(np.pad(rows - above, ((0, 0), (1, 0)), constant_values=2).tobytes())


def _tiff(picture: Picture, notes: list[str]) -> bytes:
    """A TIFF in strips packed by Deflate: Pillow writes its directory, but has no colours in 16 bit."""
    carried, samples = picture.carried, _with_alpha(picture.pixels, picture.alpha)
    height, width, channels = samples.shape
    rows = max(1, _STRIP // samples[:1].nbytes)
    strips = [_packed_strip(samples[top : top + rows]) for top in range(0, height, rows)]
    _note_losses(notes, EXIF=carried.exif, comment=carried.comment, texts=carried.text, IPTC=carried.segments)
    directory = carried.tags or ImageFileDirectory_v2(prefix=b"II")
    if carried.xmp and carried.tags is None:
        directory.tagtype[700], directory[700] = 1, carried.xmp
    layout = {256: width, 257: height, 258: (8 * samples.itemsize,) * channels, 259: 8, 262: 2, 277: channels}
    layout |= {278: rows, 284: 1, 317: 2, 338: (2,)} if channels == 4 else {278: rows, 284: 1, 317: 2}
    for tag, value in layout.items():
        directory[tag] = value
    if carried.dpi and carried.tags is None:
        directory[282], directory[283], directory[296] = carried.dpi[0], carried.dpi[1], 2
    if carried.icc:
        directory.tagtype[34675], directory[34675] = 7, carried.icc
    sizes = [len(strip) for strip in strips]
    directory.tagtype[273] = directory.tagtype[279] = 4
    directory[273], directory[279] = tuple(np.cumsum([0, *sizes[:-1]]).tolist()), tuple(sizes)
    head = io.BytesIO()
    directory.save(head)
    return b"".join([head.getvalue(), *strips])


def _packed_strip(samples: Samples) -> bytes:
    """Rows (H, W, C) as what each sample adds to that of the pixel before (predictor 2)."""
    added = samples.copy()
    added[:, 1:] -= samples[:, :-1]
    return zlib.compress(added.astype(added.dtype.newbyteorder("<")).tobytes())


def _by_pillow(samples: Samples, kind: str, **settings: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(samples).save(file, kind, **settings)
    return file.getvalue()


def _with_alpha(pixels: Samples, alpha: Samples | None) -> Samples:
    if alpha is None:
        return np.ascontiguousarray(pixels)
    return np.dstack([pixels, alpha if alpha.dtype == pixels.dtype else in_8_bit(alpha)])


def _shallow(pixels: Samples, notes: list[str]) -> NDArray[np.uint8]:
    if pixels.dtype != np.uint8:
        notes.append("reduced to 8 bit")
    return in_8_bit(pixels)


def _note_losses(notes: list[str], **what: object) -> None:
    notes.extend(f"{name.replace('_', ' ')} dropped" for name, it in what.items() if it)


_KINDS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    ".png": "PNG",
    ".webp": "WEBP",
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
}
_WRITERS: dict[str, Callable[[Picture, list[str]], bytes]] = {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp, "TIFF": _tiff}
