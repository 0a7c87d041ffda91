"""What a picture file carries besides its pixels, made true of the picture that is written in its place."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

_PREFIX = b"Exif\0\0"
_ORIENTATION = 0x0112
_XMP_SEGMENTS = (b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0")
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:=[\"']|>))\d")
# What Pillow writes of its own accord (JFIF, profile, Adobe's mark), what is treated apart (Exif, several pictures),
# and what Photoshop knew of the old JPEG's quality.
_OTHERWISE = ((0, b""), (1, _PREFIX), (2, b"ICC_PROFILE\0"), (2, b"MPF\0"), (12, b"Ducky"), (14, b"Adobe"))

# Tags of TIFF that say how pixels lie in the old file, or that have a place of their own here.
_LAYOUT = {
    *(
        254,
        255,
        256,
        257,
        258,
        259,
        262,
        263,
        264,
        265,
        266,
        273,
        274,
        277,
        278,
        279,
        280,
        281,
        284,
        290,
        291,
        292,
        293,
    ),
    *(297, 301, 317, 318, 319, 320, 321, 322, 323, 324, 325, 332, 333, 334, 336, 338, 339, 340, 341, 342, 347),
    *(512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532, 34675),
}
_PARTS = (34665, 34853)  # EXIF's own and that of the place
_INTEROPERABILITY = 40965  # an offset within the old file
_PHOTOSHOP_LAYERS = 37724
_OTHER_IMAGES = 330


@dataclass(frozen=True, kw_only=True)
class ImageMetadata:
    """What a picture file carries besides pixels; None and empty is what it has not.

    `exif` is a TIFF structure without prefix, `xmp` a packet, `dpi` (across, down), `text` pairs of PNG's keys and
    texts, `segments` whole APP1 and APP13 segments of a JPEG, `tags` a TIFF's directory. `lossless` is whether a WebP
    was.
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


def metadata_of(image: Image.Image, data: bytes, profile: bytes | None, notes: list[str]) -> ImageMetadata:
    """What the file of `image`, loaded, carries beside `profile`, upright and without a thumbnail.

    `notes` get what is lost.
    """
    info = image.info
    exif, text = info.get("exif"), dict(getattr(image, "text", {}))
    if hexadecimal := text.pop("Raw profile type exif", None):  # ImageMagick's, from before PNG had a place for it
        exif = exif or _from_text(hexadecimal)
    text.pop("XML:com.adobe.xmp", None)
    comment = info.get("comment")
    return ImageMetadata(
        exif=_upright(exif.removeprefix(_PREFIX), notes) if exif else None,
        icc=profile,
        xmp=_without_orientation(xmp) if isinstance(xmp := info.get("xmp"), bytes) else None,
        dpi=info.get("dpi"),
        comment=comment.encode("utf-8", "replace") if isinstance(comment, str) else comment,
        text=tuple(text.items()),
        segments=_segments(getattr(image, "applist", []), notes),
        tags=_tags(image, notes) if isinstance(image, TiffImageFile) else None,
        lossless=image.format != "WEBP" or b"VP8L" in data[:64],
    )


def _from_text(text: str) -> bytes | None:
    try:
        return bytes.fromhex("".join(text.split("\n")[3:]))
    except ValueError:
        return None


def _upright(exif: bytes, notes: list[str]) -> bytes | None:
    """The same EXIF, byte for byte, but for the orientation, which becomes 1, and a thumbnail, which is cut off.

    Written anew, what camera makers keep in it would break: it points to places within.
    """
    patched = bytearray(exif)
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    try:
        if order is None:
            raise struct.error
        (start,) = struct.unpack_from(f"{order}L", exif, 4)
        (number,) = struct.unpack_from(f"{order}H", exif, start)
        for place in range(start + 2, start + 2 + 12 * number, 12):
            tag, kind = struct.unpack_from(f"{order}HH", exif, place)
            if tag == _ORIENTATION:
                struct.pack_into(f"{order}{'L' if kind == 4 else 'H'}", patched, place + 8, 1)
        following = start + 2 + 12 * number
        if any(exif[following : following + 4]):
            struct.pack_into(f"{order}L", patched, following, 0)
            notes.append("thumbnail dropped")
    except struct.error:
        notes.append("damaged EXIF dropped")
        return None
    return bytes(patched)


def _without_orientation(xmp: bytes) -> bytes:
    return _XMP_ORIENTATION.sub(rb"\g<1>1", xmp)


def _segments(applist: list[tuple[str, bytes]], notes: list[str]) -> bytes:
    """The segments of a JPEG that hold XMP and IPTC, as they are."""
    kept = b""
    for name, body in applist:
        number = int(name[3:]) if name.startswith("APP") else None
        if number is None:
            continue
        if (number == 1 and body.startswith(_XMP_SEGMENTS)) or (number == 13 and body.startswith(b"Photoshop 3.0\0")):
            upright = _without_orientation(body)
            kept += struct.pack(">BBH", 0xFF, 0xE0 + number, len(upright) + 2) + upright
        elif not any(number == other and body.startswith(start) for other, start in _OTHERWISE):
            notes.append(f"{name} segment dropped")
    return kept


def _tags(image: TiffImageFile, notes: list[str]) -> ImageFileDirectory_v2:
    """The tags of a TIFF that say nothing of where its pixels are."""
    kept = ImageFileDirectory_v2(prefix=b"II")
    for tag, kind, value in _tags_of(image):
        if tag == _PHOTOSHOP_LAYERS:
            notes.append("Photoshop's layers dropped")
        elif tag == _OTHER_IMAGES:
            notes.append("smaller pictures in the TIFF dropped")
        else:
            alone = ImageFileDirectory_v2(prefix=b"II")
            try:
                for directory in (alone, kept):
                    directory.tagtype[tag] = kind
                    directory[tag] = value
                alone.tobytes()
            except (struct.error, ValueError, TypeError, AttributeError, KeyError):  # no value that Pillow can write
                del kept[tag]
                notes.append(f"TIFF tag {tag} dropped")
    return kept


def _tags_of(image: TiffImageFile) -> Iterator[tuple[int, int, Any]]:
    own = image.tag_v2
    for tag in own:
        if tag not in _LAYOUT and tag not in _PARTS:
            yield tag, own.tagtype[tag], own[tag]
    exif = image.getexif()
    for tag in _PARTS:
        if part := {key: value for key, value in exif.get_ifd(tag).items() if key != _INTEROPERABILITY}:
            yield tag, 4, part
