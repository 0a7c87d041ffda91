"""Decodes image bytes to upright 8-bit sRGB, strictly: damaged files are rejected, not repaired.

One bad JPEG ends a DALI pipeline, and a random crop can hide a truncated file until a later epoch. libjpeg-turbo
decodes JPEGs with warnings as errors, because lenient decoders accept zeroed blocks and flipped bits.
"""

import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    SAMPLEFORMAT,
    TiffImageFile,
)

from ..system import is_out_of_memory
from .jpeg import decode_strictly
from .png import check_chunks

ORIENTATIONS = range(2, 9)  # of EXIF, except 1, which is upright
MIN_SIDE = 32
MAX_SIDE = 65_500  # libjpeg's limit
MAX_PIXELS = 100_000_000  # 300 MB of RGB: above any camera of the data sets, below what kills a worker
MAX_BYTES = 1 << 29  # per file; files are read whole
# libjpeg-turbo can halve large JPEGs while it decodes them, as long as this multiple of the wanted size is left: 1.5
# times as fast as a full decode, for less than half of the ab error of storing as JPEG (docs/packing.md).
SCALED_DECODE_FACTOR = 1.25

_UNSUPPORTED_TIFF = ("unknown pixel mode", "unknown data organization", "Invalid value for samples per pixel")
_NEW_SUBFILE_TYPE, _SUBFILE_TYPE = 254, 255  # tags: bits of a page's use, and its older form
_UNFILLED_ALPHA = ("BMP", "DIB", "TGA", "ICO")  # formats whose programs often leave the fourth byte at 0

# Image formats only: some of Pillow's other plugins start programs (Ghostscript for EPS).
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "PPM", "JPEG2000", "TGA", "ICO", "AVIF")

HEADER_REPAIRED = ("header repaired",)  # the changes of a JPEG whose header alone is faulty

Pixels = NDArray[np.uint8]
T = TypeVar("T", bound=np.generic)


class Rejected(ValueError):
    """A file that cannot be used: `reason` is two words, `detail` is the decoder's message."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[Any, ...]:  # workers pickle it
        return Rejected, (self.reason, self.detail)


class DecodedImage(NamedTuple):
    """Upright sRGB `pixels` (H, W, 3), the file's own upright (width, height), and what was changed to get there.

    `pixels` are smaller than `size` after a scaled decode.
    """

    pixels: Pixels
    size: tuple[int, int]
    changes: tuple[str, ...]


def decode(data: bytes, short_side: int | None = None) -> DecodedImage:
    """Returns the file's image in upright 8-bit sRGB. Raises Rejected.

    An embedded profile is converted to sRGB, 16-bit samples are scaled, transparency is blended onto white, CMYK is
    converted, and animations give their first frame. With `short_side`, a large JPEG may be decoded at a smaller scale,
    but to at least `SCALED_DECODE_FACTOR` times the size that its reduction to `short_side` needs.
    """
    image = open_image(data)
    with rejecting():
        check_size(image.size)
        if image.format in ("JPEG", "MPO"):
            decoded, changes = decode_jpeg_strictly(data, image, reduced_size(image.size, short_side))
        else:
            check_samples(image)
            is_deep = image.mode.startswith("RGB") and ";16" in raw_mode(image)  # Pillow keeps the upper bytes
            image.load()
            decoded, changes = straight_alpha(image), (f"from {image.format}", *(["from 16 bit"] if is_deep else []))
        profile = image.info.get("icc_profile")
        transform = to_srgb(profile, "CMYK" if image.mode == "CMYK" else "RGB") if profile else None
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        if isinstance(decoded, Image.Image) and (decoded.mode != "CMYK" or transform is None):
            decoded, changes = _to_rgb(decoded, changes)
        if transform is not None:
            decoded = Image.fromarray(decoded) if isinstance(decoded, np.ndarray) else decoded
            decoded = ImageCms.applyTransform(decoded, transform) or decoded
            changes = (*changes, "brought to sRGB")
        pixels = decoded if isinstance(decoded, np.ndarray) else np.array(decoded)
        if orientation not in ORIENTATIONS:
            return DecodedImage(pixels, image.size, changes)
        pixels = np.ascontiguousarray(turn_upright(pixels, orientation))
        size = image.size[::-1] if orientation > 4 else image.size
        return DecodedImage(pixels, size, (*changes, "turned upright"))


def turn_upright(pixels: NDArray[T], orientation: int) -> NDArray[T]:
    """Returns pixels (H, W, ...) of an EXIF orientation from 2 to 8 upright."""
    swapped = pixels.swapaxes(0, 1) if orientation > 4 else pixels
    return swapped[:: -1 if orientation in (3, 4, 7, 8) else 1, :: -1 if orientation in (2, 3, 6, 7) else 1]


def reduced_size(size: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """Returns (width, height) scaled so that the shorter is `short_side`; unchanged if it is no longer than that."""
    if short_side is None or min(size) <= short_side:
        return size
    factor = short_side / min(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def open_image(data: bytes) -> ImageFile:
    """Opens an image file: reads the header, not yet the pixels. Raises Rejected."""
    if not data:
        raise Rejected("empty file")
    with rejecting():
        try:
            image = Image.open(io.BytesIO(check_chunks(data)), formats=FORMATS)
        except UnidentifiedImageError:
            if _is_unsupported_tiff(data):
                raise Rejected("unsupported pixels", "a TIFF whose samples Pillow cannot read") from None
            raise
        if isinstance(image, TiffImageFile):
            _seek_picture(image)
        return image


def _is_unsupported_tiff(data: bytes) -> bool:
    """Returns whether an unidentified file is a TIFF whose samples or compression Pillow does not know."""
    try:
        TiffImageFile(io.BytesIO(data))
    except SyntaxError as error:
        is_known = str(error) in _UNSUPPORTED_TIFF or isinstance(error.__cause__, KeyError | IndexError)
        return is_known and data[:2] in (b"II", b"MM")
    return False


def _seek_picture(image: TiffImageFile) -> None:
    """Seeks the first page that is not a reduced copy or a mask. Raises Rejected where there is none."""
    page = 0
    try:
        while image.tag_v2.get(_NEW_SUBFILE_TYPE, 0) & 0b101 or image.tag_v2.get(_SUBFILE_TYPE) == 2:
            image.seek(page := page + 1)
    except (EOFError, SyntaxError, KeyError):  # camera raw files hold the picture elsewhere, or as samples of a sensor
        raise Rejected("unsupported pixels", "Pillow reads only a reduced copy of this TIFF") from None


@contextmanager
def rejecting() -> Iterator[None]:
    """Turns whatever Pillow raises about a file into Rejected, and silences its bomb warning (our limit is checked)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (Rejected, MemoryError):
            raise
        except UnidentifiedImageError:
            raise Rejected("not an image") from None
        except Image.DecompressionBombError as error:
            raise Rejected("too many pixels", str(error)) from None
        except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, struct.error and more
            raise Rejected("damaged", f"{type(error).__name__}: {error}") from None


def check_size(size: tuple[int, int], *, min_side: int = MIN_SIDE, max_pixels: int = MAX_PIXELS) -> None:
    """Raises Rejected for a (width, height) beyond the limits."""
    width, height = size
    if min(size) < min_side:
        raise Rejected("too small", f"{width}x{height}, the smallest side allowed is {min_side}")
    if max(size) > MAX_SIDE:
        raise Rejected("too many pixels", f"{width}x{height}, the longest side allowed is {MAX_SIDE}")
    if width * height > max_pixels:
        raise Rejected("too many pixels", f"{width}x{height}, the largest area allowed is {max_pixels}")


def decode_jpeg_strictly(
    data: bytes, image: Image.Image, wanted: tuple[int, int]
) -> tuple[Image.Image | Pixels, tuple[str, ...]]:
    """Decodes a JPEG by libjpeg-turbo with warnings as errors; `image` is Pillow's view of the same bytes."""
    width, height = (
        min(side, round(SCALED_DECODE_FACTOR * wish)) for side, wish in zip(image.size, wanted, strict=True)
    )
    is_cmyk = image.mode == "CMYK"
    # Scales between 1/2 and 1 take longer than a full decode.
    options = {} if is_cmyk else {"min_factor": 2, "min_width": width, "min_height": height}
    try:
        pixels, repaired = decode_strictly(data, colorspace="CMYK" if is_cmyk else "RGB", **options)
    except ValueError as error:
        if "subsampling" in str(error):  # one that libjpeg-turbo has no name for
            image.load()
            return image, ("unusual sampling",)
        if is_out_of_memory(error):
            raise MemoryError(str(error)) from None
        raise Rejected("damaged JPEG", str(error)) from None
    changes = HEADER_REPAIRED if repaired else ()
    if is_cmyk:  # libjpeg-turbo has checked the data; Pillow handles Adobe's inverted inks
        image.load()
        return image, changes
    return pixels, (*changes, "from grey") if image.mode == "L" else changes


def _to_rgb(image: Image.Image, changes: tuple[str, ...]) -> tuple[Image.Image, tuple[str, ...]]:
    """Returns the image in 8-bit RGB; its colour space stays as it is."""
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = (deep_grey(image).astype(np.int64) + 128) // 257
        image, changes = Image.fromarray(grey.astype(np.uint8)), (*changes, "from 16 bit")
    elif image.mode == "F":
        raise Rejected("unsupported pixels", "floating point samples have no known white")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
        return image, (*changes, "laid on white")
    if image.mode != "RGB":
        return image.convert("RGB"), (*changes, f"from {image.mode}")
    return image, changes


def straight_alpha(image: Image.Image) -> Image.Image:
    """Returns the image with straight alpha, not premultiplied, and without an alpha that no program has filled."""
    if image.mode in ("La", "RGBa"):
        return image.convert(f"{image.mode[:-1]}A")  # the only mode that Pillow converts them to
    if image.format in _UNFILLED_ALPHA and image.mode.endswith("A") and image.getchannel("A").getextrema() == (0, 0):
        return image.convert(image.mode[:-1])
    return image


def raw_mode(image: ImageFile) -> str:
    """Returns Pillow's name for the layout of the file's samples; empty where it has none."""
    arguments: Any = image.tile[0].args if image.tile else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def check_samples(image: Image.Image) -> None:
    """Raises Rejected for TIFFs that Pillow decodes to something else: planes of more than 8 bit, signed bytes."""
    if not isinstance(image, TiffImageFile):
        return
    bits = max(image.tag_v2.get(BITSPERSAMPLE, (8,)))
    if image.tag_v2.get(PLANAR_CONFIGURATION) == 2 and bits > 8:
        raise Rejected("unsupported pixels", "more than 8 bit in separate planes")
    if 2 in image.tag_v2.get(SAMPLEFORMAT, ()) and bits == 8:
        raise Rejected("unsupported pixels", "signed samples have no known black")


def deep_grey(image: Image.Image) -> NDArray[np.uint16]:
    """Returns 16-bit grey (H, W), black is 0, of an image of mode I or I;16. Raises Rejected for more bits."""
    samples = np.asarray(image)
    if samples.dtype != np.uint16 and (samples.min() < 0 or samples.max() > 65535):
        raise Rejected("unsupported pixels", "samples of 32 bit have no known white")
    grey = samples.astype(np.uint16)
    if isinstance(image, TiffImageFile):
        if image.tag_v2.get(BITSPERSAMPLE) in (12, (12,)):
            grey = grey * np.uint16(16) + (grey >> np.uint16(8))
        if image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0:  # white is 0
            grey = ~grey
    return grey


@lru_cache(maxsize=64)
def to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Returns the transform from a profile to sRGB for an image of `mode`, RGB or CMYK.

    None if the profile is sRGB already, or unusable: viewers show such images as if they had none.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None
    if mode == "RGB":
        # Names do not help: sRGB profiles have many, and other profiles mention sRGB in theirs.
        steps = np.linspace(0, 255, 9).round().astype(np.uint8)
        colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(27, 27, 3)
        converted = ImageCms.applyTransform(Image.fromarray(colours), transform)
        assert converted is not None
        if np.abs(np.asarray(converted).astype(int) - colours).max() <= 2:
            return None
    return transform


def check_bytes(size: int) -> None:
    """Raises Rejected for a file that is too large to read."""
    if size > MAX_BYTES:
        raise Rejected("too large", f"{size:,} bytes, the largest file that is read has {MAX_BYTES:,}")


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Returns the file's bytes. Raises Rejected if it is not a regular file, too large or unreadable."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise Rejected("no regular file")  # reading a pipe would wait for ever
        check_bytes(status.st_size)
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise Rejected("unreadable", error.strerror or str(error)) from None
