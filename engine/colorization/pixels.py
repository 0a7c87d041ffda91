"""Decodes image files of every kind to sRGB: 16 bit where the file has more than 8, and the opacity apart."""

# Shapes: H W pixels.

import io
import re
import sys
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile

from ...pipelines.imaging.decode import (
    Rejected,
    check_samples,
    decode_jpeg_strictly,
    deep_grey,
    open_image,
    raw_mode,
    straight_alpha,
    to_srgb,
)

Pixels = NDArray[np.unsignedinteger[Any]]  # uint8 or uint16
Pixels16 = NDArray[np.uint16]

_RGB_16 = re.compile("(RGB[AX]?;16)([LBN])")  # raw modes that Pillow reduces to the upper bytes
# Where the header of a format that Pillow decodes to 8 bit states its depth; JPEG 2000 states one less.
_DEPTHS = {
    "AVIF": re.compile(rb"pixi.{5}(.)", re.DOTALL),
    "JPEG2000": re.compile(rb"\xff\x4f\xff\x51.{38}(.)", re.DOTALL),
}


def is_16_bit(image: ImageFile.ImageFile) -> bool:
    """Returns whether `decode_srgb` decodes the opened file to 16 bit."""
    is_grey = image.mode == "I" or image.mode.startswith("I;16")
    return is_grey or _RGB_16.fullmatch(raw_mode(image)) is not None


def decode_srgb(
    image: ImageFile.ImageFile, data: bytes, notes: list[str]
) -> tuple[Pixels, Pixels | None, bytes | None]:
    """Decodes an opened file; returns sRGB (H, W, 3), opacity (H, W) if any, and the ICC profile of the result.

    Adds what was changed or lost to `notes`. Raises Rejected, and whatever Pillow raises.
    """
    profile = image.info.get("icc_profile")
    if profile is None and "icc_profile" in image.info:  # a JPEG with a part of it missing, or with two
        notes.append("unusable profile dropped")
    check_samples(image)
    if not is_16_bit(image):
        if _bit_depth(image, data) > 8:
            notes.append("reduced to 8 bit")
        return image_to_srgb(_load(image, data), profile, notes)
    pixels = _decode_16_bit(image, data)
    if pixels.ndim == 2:
        alpha, pixels = _alpha_of_key(image, pixels[..., None]), _grey_to_rgb(_grey_to_srgb(pixels, profile))
    else:
        alpha = pixels[..., 3] if pixels.shape[2] == 4 else _alpha_of_key(image, pixels)
        pixels = pixels[..., :3]
    if profile and _color_space(profile) == b"RGB " and to_srgb(profile, "RGB"):  # Pillow's Little CMS does it in 8 bit
        notes.append("reduced to 8 bit")
        reduced, _, profile = image_to_srgb(Image.fromarray(to_uint8(pixels)), profile, notes)
        return reduced, None if alpha is None else to_uint8(alpha), profile
    return pixels, alpha, _output_profile(profile, notes)


def image_to_srgb(
    image: Image.Image, profile: bytes | None, notes: list[str]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None, bytes | None]:
    """Converts an 8-bit image; returns sRGB (H, W, 3), opacity (H, W) if any, and the ICC profile of the result.

    Raises Rejected for floating point.
    """
    if image.mode == "F":
        raise Rejected("unsupported pixels", "floating point samples have no known white")
    image = straight_alpha(image)
    alpha = np.asarray(image.convert("RGBA").getchannel("A")) if image.has_transparency_data else None
    if image.mode in ("1", "L", "LA") and _color_space(profile) != b"RGB ":
        grey = _grey_to_srgb(np.asarray(image.convert("L")), profile)
        return to_uint8(_grey_to_rgb(grey)), alpha, _output_profile(profile, notes)
    if image.mode == "LAB" and _color_space(profile) != b"Lab ":
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    if image.mode not in ("CMYK", "LAB"):
        image = image.convert("RGB")
    if profile and (transform := to_srgb(profile, image.mode)):
        notes.append("brought to sRGB")
        image, profile = ImageCms.applyTransform(image, transform) or image, srgb_profile()
    elif image.mode != "RGB":
        notes.append(f"{image.mode} became RGB without a profile")
        image = image.convert("RGB")
    return np.asarray(image), alpha, _output_profile(profile, notes)


def to_uint8(pixels: Pixels) -> NDArray[np.uint8]:
    """Returns pixels of 8 or 16 bit in 8 bit, rounded and contiguous."""
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels, np.uint8)
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def composite_on_white(pixels: Pixels, alpha: Pixels | None) -> NDArray[np.uint8]:
    """Returns pixels (H, W, 3) with opacity (H, W) on a white background, in 8 bit."""
    if alpha is None:
        return to_uint8(pixels)
    opacity = to_uint8(alpha)[..., None] / np.float32(255)
    return np.asarray((to_uint8(pixels) * opacity + 255 * (1 - opacity)).round(), np.uint8)


def srgb_profile() -> bytes:
    """Returns the ICC profile of sRGB, with a fixed date of creation so that files are reproducible."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes.fromhex("07d0 0001 0001 0000 0000 0000")  # 2000-01-01, else the time of this call
    return bytes(profile)


def _load(image: ImageFile.ImageFile, data: bytes) -> Image.Image:
    """Returns the decoded image in the file's own colours."""
    if image.format not in ("JPEG", "MPO"):
        image.load()
        return image
    decoded, _ = decode_jpeg_strictly(data, image, image.size)
    if isinstance(decoded, Image.Image):
        return decoded
    return Image.fromarray(decoded[..., 0] if image.mode == "L" else decoded)


def _grey_to_srgb(grey: Pixels, profile: bytes | None) -> Pixels:
    """Returns greys of any profile in sRGB."""
    if _color_space(profile) != b"GRAY" or (curve := _grey_curve(profile or b"")) is None:
        return grey
    return curve[grey] if grey.dtype == np.uint16 else to_uint8(curve[::257])[grey]


@lru_cache(maxsize=16)
def _grey_curve(profile: bytes) -> Pixels16 | None:
    """Returns the sRGB value of each of 65,536 greys; None when the profile cannot be used."""
    # sRGB's curve as a profile of greys: Pillow has 16 bit for greys alone.
    grey_srgb = srgb_profile().replace(b"RGB ", b"GRAY", 1).replace(b"rTRC", b"kTRC")
    try:
        source, target = (ImageCms.ImageCmsProfile(io.BytesIO(data)) for data in (profile, grey_srgb))
        # Optimized, it would have straight lines near black, and be off by as much as 5 of L.
        transform = ImageCms.buildTransform(source, target, "I;16", "I;16", flags=ImageCms.Flags.NOOPTIMIZE)
    except (ImageCms.PyCMSError, OSError):
        return None
    greys = Image.fromarray(np.arange(65536, dtype=np.uint16)[None])
    return np.asarray(ImageCms.applyTransform(greys, transform))[0]


def _color_space(profile: bytes | None) -> bytes:
    """Returns the colour space signature of an ICC profile."""
    return profile[16:20] if profile else b""


def _output_profile(profile: bytes | None, notes: list[str]) -> bytes | None:
    """Returns the profile that describes the pixels once they are sRGB, or RGB of the given profile."""
    if not profile or _color_space(profile) == b"RGB ":
        return profile
    if _color_space(profile) == b"GRAY" and _grey_curve(profile) is not None:
        notes.append("brought to sRGB")
        return srgb_profile()
    notes.append("unusable profile dropped")
    return None


def _grey_to_rgb(grey: Pixels) -> Pixels:
    return np.broadcast_to(grey[..., None], (*grey.shape, 3))


def _bit_depth(image: ImageFile.ImageFile, data: bytes) -> int:
    """Returns the number of bits of the file's samples."""
    if pattern := _DEPTHS.get(image.format or ""):
        match = pattern.search(data)
        return (match[1][0] & 0x7F) + (image.format == "JPEG2000") if match else 8
    if image.format == "PPM" and image.tile:
        arguments: Any = image.tile[0].args
        maximum = arguments[-1] if isinstance(arguments, tuple) else arguments
        return maximum.bit_length() if isinstance(maximum, int) else 8
    return 16 if ";16" in raw_mode(image) else 8


def _decode_16_bit(image: ImageFile.ImageFile, data: bytes) -> Pixels16:
    """Decodes to 16 bit: (H, W) of greys, (H, W, 3) or (H, W, 4) of colours."""
    match = _RGB_16.fullmatch(raw_mode(image))
    if match is None:
        return deep_grey(image)
    # Pillow keeps the upper bytes; told the other byte order, it keeps the lower ones.
    order = {"N": "L" if sys.byteorder == "little" else "B"}.get(match[2], match[2])
    swapped = match[1] + {"L": "B", "B": "L"}[order]
    lower = open_image(data)
    lower.tile = [tile._replace(args=_with_rawmode(tile.args, swapped)) for tile in lower.tile]
    pixels: Pixels16 = np.asarray(image).astype(np.uint16) << np.uint16(8)
    pixels |= np.asarray(lower)
    return pixels


def _with_rawmode(arguments: Any, rawmode: str) -> Any:
    return (rawmode, *arguments[1:]) if isinstance(arguments, tuple) else rawmode


def _alpha_of_key(image: ImageFile.ImageFile, pixels: Pixels16) -> Pixels16 | None:
    """Returns the opacity (H, W) of a PNG that names one transparent colour."""
    if (key := image.info.get("transparency")) is None:
        return None
    return np.where((pixels == np.asarray(key)).all(axis=2), 0, 65535).astype(np.uint16)
