"""Extracts the metadata of an image file, adapted to the image that is written: upright, without a thumbnail."""

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image, TiffImagePlugin, TiffTags
from PIL.ExifTags import IFD, Base
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

_EXIF_PREFIX = b"Exif\0\0"
_XMP_SEGMENTS = (b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0")
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:=[\"']|>))\d")
# JPEG segments that Pillow writes itself (JFIF, profile, Adobe's mark), that are handled elsewhere (EXIF, MPO), or that
# state the old file's quality (Ducky).
_IGNORED_SEGMENTS = (
    (0, b""),
    (1, _EXIF_PREFIX),
    (2, b"ICC_PROFILE\0"),
    (2, b"MPF\0"),
    (12, b"Ducky"),
    (14, b"Adobe"),
)

# TIFF tags that describe the old file's layout, or that are handled separately (orientation 274, profile 34675).
_LAYOUT_TAGS = {
    *range(254, 260), *range(262, 267), *(273, 274, 277, 278, 279, 280, 281, 284), *range(290, 294), *(297, 301),
    *range(317, 326), *range(332, 335), *(336, 338), *range(339, 343), 347, *range(512, 522), *range(529, 533), 34675,
}  # fmt: skip
_EXIF_IFDS = (IFD.Exif, IFD.GPSInfo)
_DROPPED_TAGS = {
    37724: "Photoshop's layers dropped",
    TiffImagePlugin.SUBIFD: "smaller images in the TIFF dropped",
}


@dataclass(frozen=True, kw_only=True)
class ImageMetadata:
    """An image file's content besides its pixels; None or empty where there is none.

    `exif` is a TIFF structure without prefix, `icc` a profile, `xmp` a packet, `dpi` (across, down), `text` a PNG's
    pairs of key and text, `segments` a JPEG's whole APP1 and APP13 segments, `tags` a TIFF's directory. `lossless` is
    False for a lossy WebP.
    """

    exif: bytes | None = None
    icc: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    comment: bytes | None = None
    text: tuple[tuple[str, Any], ...] = ()
    segments: bytes = b""
    tags: ImageFileDirectory_v2 | None = None
    lossless: bool = True


def extract_metadata(
    image: Image.Image, data: bytes, profile: bytes | None, notes: list[str], *, turned: bool
) -> ImageMetadata:
    """Returns the metadata of a loaded image with the given profile; adds what is lost to `notes`.

    Orientations become 1 if the image was `turned`, and else stay: readers differ in which they follow.
    """
    info, upright_xmp = image.info, _upright_xmp if turned else bytes
    exif, text = info.get("exif"), dict(getattr(image, "text", {}))
    if hexadecimal := text.pop("Raw profile type exif", None):  # ImageMagick's, older than PNG's eXIf chunk
        exif = exif or _from_hexadecimal(hexadecimal)
    text.pop("XML:com.adobe.xmp", None)
    comment = info.get("comment")
    return ImageMetadata(
        exif=_adapt_exif(exif.removeprefix(_EXIF_PREFIX), notes, turned=turned) if exif else None,
        icc=profile,
        xmp=upright_xmp(xmp) if isinstance(xmp := info.get("xmp"), bytes) else None,
        dpi=info.get("dpi"),
        comment=comment.encode("utf-8", "replace") if isinstance(comment, str) else comment,
        text=tuple(text.items()),
        segments=_segments(getattr(image, "applist", []), notes, upright_xmp),
        tags=_tiff_tags(image, notes, upright_xmp) if isinstance(image, TiffImageFile) else None,
        lossless=image.format != "WEBP" or b"VP8L" in data[:64],
    )


def _from_hexadecimal(text: str) -> bytes | None:
    try:
        return bytes.fromhex("".join(text.split("\n")[3:]))
    except ValueError:
        return None


def _adapt_exif(exif: bytes, notes: list[str], *, turned: bool) -> bytes | None:
    """Returns EXIF without a thumbnail, with orientation 1 if `turned`, else byte for byte the same.

    Encoding it again would break makers' notes, which hold offsets in it.
    """
    patched = bytearray(exif)
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    try:
        if order is None:
            raise struct.error
        (start,) = struct.unpack_from(f"{order}L", exif, 4)
        (number,) = struct.unpack_from(f"{order}H", exif, start)
        end = start + 2 + 12 * number
        for offset in range(start + 2, end, 12):
            (tag,) = struct.unpack_from(f"{order}H", exif, offset)
            if tag == Base.Orientation and turned:
                struct.pack_into(f"{order}HLHH", patched, offset + 2, TiffTags.SHORT, 1, 1, 0)
        if any(exif[end : end + 4]):  # the offset of the thumbnail's directory
            struct.pack_into(f"{order}L", patched, end, 0)
            notes.append("thumbnail dropped")
    except struct.error:
        notes.append("damaged EXIF dropped")
        return None
    return bytes(patched)


def _upright_xmp(xmp: bytes) -> bytes:
    return _XMP_ORIENTATION.sub(rb"\g<1>1", xmp)


def _segments(applist: list[tuple[str, bytes]], notes: list[str], upright_xmp: Callable[[bytes], bytes]) -> bytes:
    """Returns the segments of a JPEG that hold XMP and IPTC."""
    kept = b""
    for name, body in applist:
        number = int(name[3:]) if name.startswith("APP") else None
        if number is None:
            continue
        if (number == 1 and body.startswith(_XMP_SEGMENTS)) or (number == 13 and body.startswith(b"Photoshop 3.0\0")):
            upright = upright_xmp(body)
            kept += struct.pack(">BBH", 0xFF, 0xE0 + number, len(upright) + 2) + upright
        elif not any(number == other and body.startswith(start) for other, start in _IGNORED_SEGMENTS):
            notes.append(f"{name} segment dropped")
    return kept


def _tiff_tags(image: TiffImageFile, notes: list[str], upright_xmp: Callable[[bytes], bytes]) -> ImageFileDirectory_v2:
    """Returns the tags of a TIFF that do not describe its layout."""
    kept = ImageFileDirectory_v2(prefix=b"II")
    for tag, kind, value in _metadata_tags(image, upright_xmp):
        if tag in _DROPPED_TAGS:
            notes.append(_DROPPED_TAGS[tag])
            continue
        trial = ImageFileDirectory_v2(prefix=b"II")
        try:
            for directory in (trial, kept):
                directory.tagtype[tag] = kind
                directory[tag] = value
            trial.tobytes()
        except (struct.error, ValueError, TypeError, AttributeError, KeyError):  # a value that Pillow cannot write
            del kept[tag]
            notes.append(f"TIFF tag {tag} dropped")
    return kept


def _metadata_tags(image: TiffImageFile, upright_xmp: Callable[[bytes], bytes]) -> Iterator[tuple[int, int, Any]]:
    """Yields tag, type and value of a TIFF's metadata, with EXIF and GPS as directories."""
    tags = image.tag_v2
    for tag in tags:
        if tag == TiffImagePlugin.XMP and isinstance(tags[tag], bytes):
            yield tag, tags.tagtype[tag], upright_xmp(tags[tag])
        elif tag not in _LAYOUT_TAGS and tag not in _EXIF_IFDS:
            yield tag, tags.tagtype[tag], tags[tag]
    exif = image.getexif()
    for ifd in _EXIF_IFDS:
        # Interop is an offset in the old file.
        if values := {tag: value for tag, value in exif.get_ifd(ifd).items() if tag != IFD.Interop}:
            yield ifd, TiffTags.LONG, values
