"""The pixels of any kind of picture file as sRGB, in 16 bit where it has more than 8, and its opacity."""

# Shapes: H W pixels.

import io
import re
import sys
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile

from ...pipelines.imaging.decode import FORMATS, Rejected, check_planes, decode_jpeg_strictly, deep_grey, to_srgb

Samples = NDArray[np.unsignedinteger[Any]]  # uint8 or uint16
Deep = NDArray[np.uint16]

_SPLITTABLE = re.compile("(RGBA?;16)([LBN])")
# Where formats of which Pillow gives 8 bit say how many they have; JPEG 2000 says one less.
_DEPTHS = {
    "AVIF": re.compile(rb"pixi.{5}(.)", re.DOTALL),
    "JPEG2000": re.compile(rb"\xff\x4f\xff\x51.{38}(.)", re.DOTALL),
}


def is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether `samples_of` gets more than 8 bit of the opened file."""
    is_grey = image.mode == "I" or image.mode.startswith("I;16")
    return is_grey or _SPLITTABLE.fullmatch(_rawmode(image)) is not None


def samples_of(
    image: ImageFile.ImageFile, data: bytes, notes: list[str]
) -> tuple[Samples, Samples | None, bytes | None]:
    """sRGB (H, W, 3) and opacity (H, W), if it has one, of the opened file, and the profile that then describes them.

    `notes` get what was changed or lost. Raises Rejected, and whatever Pillow does.
    """
    profile = image.info.get("icc_profile")
    check_planes(image)
    if not is_deep(image):
        if _bits(image, data) > 8:
            notes.append("reduced to 8 bit")
        return _in_srgb(_loaded(image, data), profile, notes)
    deep = _deep(image, data)
    if deep.ndim == 2:
        alpha, deep = _keyed(image, deep[..., None]), _as_rgb(_through_curve(deep, profile))
    else:
        alpha = deep[..., 3] if deep.shape[2] == 4 else _keyed(image, deep)
        deep = deep[..., :3]
    if profile and _space(profile) == b"RGB " and to_srgb(profile, "RGB"):  # which Little CMS does in 8 bit here
        notes.append("reduced to 8 bit")
        shallow, _, profile = _in_srgb(Image.fromarray(np.ascontiguousarray(in_8_bit(deep))), profile, notes)
        return shallow, None if alpha is None else in_8_bit(alpha), profile
    return deep, alpha, _described(profile, notes)


def in_8_bit(samples: Samples) -> NDArray[np.uint8]:
    """The same in 8 bit, rounded."""
    if samples.dtype == np.uint8:
        return samples.astype(np.uint8, copy=False)
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _loaded(image: ImageFile.ImageFile, data: bytes) -> Image.Image:
    """The picture in the file's own colours."""
    if image.format not in ("JPEG", "MPO"):
        image.load()
        return image
    picture, _ = decode_jpeg_strictly(data, image, image.size)
    if isinstance(picture, Image.Image):
        return picture
    return Image.fromarray(picture[..., 0] if image.mode == "L" else picture)


def _in_srgb(
    picture: Image.Image, profile: bytes | None, notes: list[str]
) -> tuple[Samples, Samples | None, bytes | None]:
    """An 8-bit picture in sRGB, its opacity and its profile."""
    if picture.mode == "F":
        raise Rejected("unsupported pixels", "floating point samples have no known white")
    alpha = np.asarray(picture.convert("RGBA").getchannel("A")) if picture.has_transparency_data else None
    if picture.mode in ("1", "L", "LA"):
        grey = np.asarray(picture.convert("L"))
        if _space(profile) != b"RGB ":
            return _as_rgb(_through_curve(grey, profile)), alpha, _described(profile, notes)
    if picture.mode == "LAB" and _space(profile) != b"Lab ":
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    if picture.mode not in ("CMYK", "LAB"):
        picture = picture.convert("RGB")
    if profile and (transform := to_srgb(profile, picture.mode)):
        notes.append("brought to sRGB")
        picture, profile = ImageCms.applyTransform(picture, transform) or picture, _srgb_profile()
    elif picture.mode != "RGB":
        notes.append(f"{picture.mode} became RGB without a profile")
        picture = picture.convert("RGB")
    return np.asarray(picture), alpha, _described(profile, notes)


def _through_curve(grey: Samples, profile: bytes | None) -> Samples:
    """Grey of whatever profile in sRGB."""
    if _space(profile) != b"GRAY" or (curve := _curve(profile or b"")) is None:
        return grey
    return curve[grey] if grey.dtype == np.uint16 else in_8_bit(curve[::257])[grey]


@lru_cache(maxsize=16)
def _curve(profile: bytes) -> Deep | None:
    """What each of 65,536 greys becomes in sRGB; None when the profile is no use.

    Little CMS says it in 8 bit here; but where it goes from one level to the next, the true value lies half way.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        # Optimized, it would have straight lines near black, and be off by as much as 5 of L.
        exact = ImageCms.Flags.NOOPTIMIZE
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "I;16", "RGB", flags=exact)
    except (ImageCms.PyCMSError, OSError):
        return None
    converted = ImageCms.applyTransform(Image.fromarray(np.arange(65536, dtype=np.uint16)[None]), transform)
    assert converted is not None
    levels = np.maximum.accumulate(np.asarray(converted)[0, :, 1]).astype(int)
    steps = np.arange(levels[0] + 1, levels[-1] + 1)
    places = [0, *(np.searchsorted(levels, steps) - 0.5), 65535]
    values = [levels[0] * 257.0, *((steps - 0.5) * 257), levels[-1] * 257.0]
    return np.interp(np.arange(65536), places, values).round().astype(np.uint16)


def _space(profile: bytes | None) -> bytes:
    """The colours that an ICC profile speaks of, by its signature."""
    return profile[16:20] if profile else b""


def _described(profile: bytes | None, notes: list[str]) -> bytes | None:
    """The profile that describes what is in sRGB, or in RGB of that profile, now."""
    if not profile or _space(profile) == b"RGB ":
        return profile
    if _space(profile) == b"GRAY" and _curve(profile) is not None:
        notes.append("brought to sRGB")
        return _srgb_profile()
    notes.append("unusable profile dropped")
    return None


def _srgb_profile() -> bytes:
    return bytes(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())


def _as_rgb(grey: Samples) -> Samples:
    return np.broadcast_to(grey[..., None], (*grey.shape, 3))


def _rawmode(image: ImageFile.ImageFile) -> str:
    """Pillow's name for how the file's samples lie; empty where it has none."""
    arguments: Any = image.tile[0].args if image.tile else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _bits(image: ImageFile.ImageFile, data: bytes) -> int:
    """How many bits the file's samples have."""
    if pattern := _DEPTHS.get(image.format or ""):
        found = pattern.search(data)
        return (found[1][0] & 0x7F) + (image.format == "JPEG2000") if found else 8
    if image.format == "PPM" and image.tile:
        arguments: Any = image.tile[0].args
        maximum = arguments[-1] if isinstance(arguments, tuple) else arguments
        return maximum.bit_length() if isinstance(maximum, int) else 8
    return 16 if ";16" in _rawmode(image) else 8


def _deep(image: ImageFile.ImageFile, data: bytes) -> Deep:
    """The samples in 16 bit: (H, W) of grey, else (H, W, 3) or (H, W, 4)."""
    if match := _SPLITTABLE.fullmatch(_rawmode(image)):
        # Pillow has no mode for them and keeps the upper bytes; as if they were of the other order, the lower ones.
        order = {"N": "L" if sys.byteorder == "little" else "B"}.get(match[2], match[2])
        other = Image.open(io.BytesIO(data), formats=FORMATS)
        swapped = match[1] + {"L": "B", "B": "L"}[order]
        other.tile = [tile._replace(args=_with_rawmode(tile.args, swapped)) for tile in other.tile]
        upper: Deep = np.asarray(image).astype(np.uint16) << np.uint16(8)
        upper |= np.asarray(other)
        return upper
    return deep_grey(image)


def _with_rawmode(arguments: Any, rawmode: str) -> Any:
    return (rawmode, *arguments[1:]) if isinstance(arguments, tuple) else rawmode


def _keyed(image: ImageFile.ImageFile, deep: Deep) -> Deep | None:
    """The opacity (H, W) that a PNG gives by naming one transparent colour."""
    if (key := image.info.get("transparency")) is None:
        return None
    return np.where((deep == np.asarray(key)).all(axis=2), 0, 65535).astype(np.uint16)
