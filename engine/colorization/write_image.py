"""Writes an image file with its metadata; notes what the format cannot hold."""

# Shapes: H W pixels, C channels: 3, or 4 with opacity.

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin, TiffTags
from PIL.PngImagePlugin import PngInfo, getchunks, putchunk
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from ...pipelines.files import atomic_write
from ...pipelines.imaging.decode import Rejected
from ...pipelines.system import is_out_of_memory
from .pixels import Pixels, composite_on_white, to_uint8
from .read_image import SourceImage

_MAX_EXIF = 65_527  # bytes of a JPEG's segment, without the prefix
_MAX_WEBP_SIDE = 16_383
_STRIP_BYTES = 1 << 20  # of a TIFF, before compression
_DEFLATE, _RGB, _CHUNKY, _HORIZONTAL, _UNASSOCIATED, _INCH = 8, 2, 1, 2, 2, 2  # values of TIFF's tags

_FORMATS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    ".png": "PNG",
    ".webp": "WEBP",
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
}
# Fields of ImageMetadata that a format cannot hold.
_UNSUPPORTED_METADATA = {
    "JPEG": ("text", "tags"),
    "PNG": ("segments", "tags"),
    "WEBP": ("text", "comment", "segments", "tags"),
    "TIFF": ("exif", "comment", "text", "segments"),
}
_LABELS = {"exif": "EXIF", "comment": "comment", "text": "texts", "segments": "IPTC", "tags": "TIFF tags"}


def format_of(target: Path) -> str | None:
    """Returns the format that a file name asks for: JPEG, PNG, WEBP or TIFF; None for any other name."""
    return _FORMATS.get(target.suffix.lower())


def write_image(image: SourceImage, target: Path) -> tuple[str, ...]:
    """Writes an image in the format of the target's name; returns its notes and those of what was lost.

    Raises Rejected when the format cannot hold the image.
    """
    format_name = _FORMATS[target.suffix.lower()]
    notes = list(image.notes)
    try:
        data = _ENCODERS[format_name](image, notes)
    except (OSError, ValueError, OverflowError, struct.error) as error:  # not of the disk: it is encoded in memory
        if isinstance(error, Rejected) or is_out_of_memory(error):
            raise
        raise Rejected("cannot be encoded", str(error)) from None
    lost = (name for name in _UNSUPPORTED_METADATA[format_name] if getattr(image.metadata, name))
    notes.extend(f"{_LABELS[name]} dropped" for name in lost)
    with atomic_write(target) as file:
        file.write_bytes(data)
    return tuple(notes)


def _encode_jpeg(image: SourceImage, notes: list[str]) -> bytes:
    metadata, exif = image.metadata, image.metadata.exif or b""
    if image.pixels.dtype != np.uint8:
        notes.append("reduced to 8 bit")
    if image.alpha is not None:
        notes.append("laid on white")
    if len(exif) > _MAX_EXIF:
        notes.append("EXIF dropped")
        exif = b""
    return _encode_by_pillow(
        composite_on_white(image.pixels, image.alpha),
        "JPEG",
        quality=95,
        subsampling=0,
        exif=b"Exif\0\0" + exif if exif else b"",
        icc_profile=metadata.icc,
        dpi=metadata.dpi or (0, 0),
        comment=metadata.comment,
        extra=metadata.segments,
        xmp=None if metadata.segments else metadata.xmp,
    )


def _encode_webp(image: SourceImage, notes: list[str]) -> bytes:
    metadata, height, width = image.metadata, *image.pixels.shape[:2]
    if max(height, width) > _MAX_WEBP_SIDE:
        raise Rejected("too many pixels", f"{width}x{height}, the longest side of a WebP is {_MAX_WEBP_SIDE}")
    if image.pixels.dtype != np.uint8:
        notes.append("reduced to 8 bit")
    return _encode_by_pillow(
        _with_alpha(to_uint8(image.pixels), image.alpha),
        "WEBP",
        quality=95,
        lossless=metadata.lossless,
        exact=True,
        exif=metadata.exif or b"",
        icc_profile=metadata.icc,
        xmp=metadata.xmp or b"",
    )


def _encode_png(image: SourceImage, notes: list[str]) -> bytes:
    metadata, texts = image.metadata, PngInfo()
    for key, value in metadata.text:
        texts.add_text(key, value)
    if metadata.xmp:
        texts.add_itxt("XML:com.adobe.xmp", metadata.xmp.decode("utf-8", "replace"))
    if metadata.comment:
        texts.add_text("Comment", metadata.comment.decode("utf-8", "replace"))
    options = {"exif": metadata.exif, "icc_profile": metadata.icc, "pnginfo": texts, "dpi": metadata.dpi}
    pixels = _with_alpha(image.pixels, image.alpha)
    return _encode_by_pillow(pixels, "PNG", **options) if pixels.dtype == np.uint8 else _encode_png_16(pixels, options)


def _encode_png_16(pixels: Pixels, options: dict[str, Any]) -> bytes:
    """Encodes 16-bit colours (H, W, C), which Pillow cannot: in the chunks of its PNG of one pixel."""
    height, width, channels = pixels.shape
    replaced = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 16, 2 if channels == 3 else 6, 0, 0, 0),
        b"IDAT": _deflate_png_rows(pixels),
    }
    file = io.BytesIO()
    file.write(b"\x89PNG\r\n\x1a\n")
    for name, body, _ in getchunks(Image.fromarray(np.zeros((1, 1, channels), np.uint8)), **options):
        putchunk(file, name, replaced.get(name, body))
    return file.getvalue()


def _deflate_png_rows(pixels: Pixels) -> bytes:
    """Compresses rows by PNG's filter 2: the difference to the row above."""
    rows = pixels.astype(">u2").view(np.uint8).reshape(len(pixels), -1)
    above = np.concatenate([np.zeros_like(rows[:1]), rows[:-1]])
    return zlib.compress(np.pad(rows - above, ((0, 0), (1, 0)), constant_values=2).tobytes())


def _encode_tiff(image: SourceImage, notes: list[str]) -> bytes:
    """Encodes strips compressed by Deflate; Pillow writes the directory, but has no 16-bit colours."""
    metadata, pixels = image.metadata, _with_alpha(image.pixels, image.alpha)
    num_rows = max(1, _STRIP_BYTES // pixels[:1].nbytes)
    strips = [_deflate_tiff_rows(pixels[top : top + num_rows]) for top in range(0, len(pixels), num_rows)]
    directory = metadata.tags or ImageFileDirectory_v2(prefix=b"II")
    for tag, value in _tiff_layout(pixels, num_rows).items():
        directory[tag] = value
    if metadata.tags is None:
        if metadata.xmp:
            directory.tagtype[TiffImagePlugin.XMP] = TiffTags.BYTE
            directory[TiffImagePlugin.XMP] = metadata.xmp
        if metadata.dpi:
            directory[TiffImagePlugin.X_RESOLUTION], directory[TiffImagePlugin.Y_RESOLUTION] = metadata.dpi
            directory[TiffImagePlugin.RESOLUTION_UNIT] = _INCH
    if metadata.icc:
        directory.tagtype[TiffImagePlugin.ICCPROFILE] = TiffTags.UNDEFINED
        directory[TiffImagePlugin.ICCPROFILE] = metadata.icc
    sizes = [len(strip) for strip in strips]
    offsets = np.cumsum([0, *sizes[:-1]]).tolist()  # Pillow adds the directory's own length
    for tag, values in ((TiffImagePlugin.STRIPOFFSETS, offsets), (TiffImagePlugin.STRIPBYTECOUNTS, sizes)):
        directory.tagtype[tag], directory[tag] = TiffTags.LONG, tuple(values)
    file = io.BytesIO()
    directory.save(file)
    return b"".join([file.getvalue(), *strips])


def _tiff_layout(pixels: Pixels, num_rows: int) -> dict[int, Any]:
    """Returns the tags that describe pixels (H, W, C) in strips of `num_rows` rows."""
    height, width, channels = pixels.shape
    layout = {
        TiffImagePlugin.IMAGEWIDTH: width,
        TiffImagePlugin.IMAGELENGTH: height,
        TiffImagePlugin.BITSPERSAMPLE: (8 * pixels.itemsize,) * channels,
        TiffImagePlugin.COMPRESSION: _DEFLATE,
        TiffImagePlugin.PHOTOMETRIC_INTERPRETATION: _RGB,
        TiffImagePlugin.SAMPLESPERPIXEL: channels,
        TiffImagePlugin.ROWSPERSTRIP: num_rows,
        TiffImagePlugin.PLANAR_CONFIGURATION: _CHUNKY,
        TiffImagePlugin.PREDICTOR: _HORIZONTAL,
    }
    return layout if channels == 3 else {**layout, TiffImagePlugin.EXTRASAMPLES: (_UNASSOCIATED,)}


def _deflate_tiff_rows(pixels: Pixels) -> bytes:
    """Compresses rows (H, W, C) by TIFF's predictor 2: the difference to the pixel on the left."""
    differences = pixels.copy()
    differences[:, 1:] -= pixels[:, :-1]
    return zlib.compress(differences.astype(differences.dtype.newbyteorder("<")).tobytes())


def _encode_by_pillow(pixels: Pixels, format_name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format_name, **options)
    return file.getvalue()


def _with_alpha(pixels: Pixels, alpha: Pixels | None) -> Pixels:
    if alpha is None:
        return np.ascontiguousarray(pixels)
    return np.dstack([pixels, alpha if alpha.dtype == pixels.dtype else to_uint8(alpha)])


_ENCODERS: dict[str, Callable[[SourceImage, list[str]], bytes]] = {
    "JPEG": _encode_jpeg,
    "PNG": _encode_png,
    "WEBP": _encode_webp,
    "TIFF": _encode_tiff,
}
