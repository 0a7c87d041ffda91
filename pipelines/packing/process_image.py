"""The gate: one file's bytes become a JPEG that every decoder reads alike, or Lab, or a reason why not.

What passes is 8-bit RGB, upright, at least `MIN_SIDE` pixels a side, and was decoded in full by a strict decoder: one
bad JPEG ends a DALI pipeline, and a random crop hides a truncated file until the wrong epoch. JPEGs are judged by
libjpeg-turbo with warnings as errors, since lenient decoders accept zeroed blocks and flipped bits.
"""

import io
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from ..imaging.srgb import EDGE, INTERCEPT, LINEAR, SLOPE, TO_XYZ
from ..shards import Store

MIN_SIDE = 32
MAX_SIDE = 65_500  # libjpeg's
MAX_PIXELS = 100_000_000  # 300 MB of RGB: above any camera of the data sets, below what ends a worker
MAX_BYTES = 1 << 29  # of a file, which is read whole
RESAMPLER = "bicubic"  # as Pillow's, which antialiases: the original project's resize
# libjpeg-turbo halves large JPEGs while it decodes them, as long as this many times the wanted size is left: some 2.5
# times faster than a full decode, and ab differs from its by less than half of what storing as JPEG costs (docs).
SCALED_AT_LEAST = 1.25
GREY_LIMIT = 5.0  # no |a| or |b| above it: grey, as in the released code of Zhang et al. (NonGrayMaskLayer)
AB_STRIDE = 4  # the statistics see every 4th pixel each way, the grid of the network's output

# What Pillow may be asked to read: pictures. Some of its other plugins start programs (Ghostscript, for EPS).
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "PPM", "JPEG2000", "TGA", "ICO", "AVIF")

# In JPEGs: what begins a segment, and not a byte or a restart of a scan; the end; and what begins a frame, of which
# baseline and progressive ones are plain.
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]", re.DOTALL)
_END = 0xD9
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PLAIN_FRAMES = {0xC0, 0xC2}

_BITS, _PHOTOMETRIC, _PLANES = 258, 262, 284  # tags of TIFF
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_THE_SIDE = (
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)

Subsampling = Literal["444", "422", "420"]
Pixels = NDArray[np.uint8]


class Rejected(ValueError):
    """The bytes are no photograph that can be packed: `reason` in two words, `detail` in a decoder's."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[Any, ...]:  # workers send it to the packer
        return Rejected, (self.reason, self.detail)


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """A photograph ready to be stored: `stored` is a JPEG, or Lab in bytes (3, height, width).

    `size` and `original_size` are (width, height); `done` lists what was done to the file. Every 4th pixel each way
    counts for the statistics: `ab_cells` are the colours that occur, as uint16 numbers of one Lab unit square,
    (a + 128) * 256 + (b + 128), rounded, and `ab_counts` how often each does.
    """

    stored: bytes
    size: tuple[int, int]
    original_size: tuple[int, int]
    done: tuple[str, ...]
    is_grey: bool
    ab_cells: NDArray[np.uint16]
    ab_counts: NDArray[np.uint32]


def make_photograph(
    data: bytes, *, short_side: int | None, quality: int, subsampling: Subsampling = "444", store: Store = "jpeg"
) -> Photograph:
    """The file's photograph, its short side reduced to `short_side` pixels (never enlarged), as JPEG of `quality`.

    A sound upright RGB JPEG that needs no resize keeps its bytes. With `store` "lab" all become Lab in bytes, straight
    from the pixels. Raises Rejected.
    """
    pixels, original_size, done = decode_at_least(data, short_side)
    size = reduced(original_size, short_side)
    if size != original_size:
        pixels, done = resized(pixels, size), (*done, "resized")
    ab = ab_of(pixels)
    cells, counts = count_cells(ab)
    if store == "lab":
        from ..imaging.color import lab_codes

        stored, done = lab_codes(pixels).tobytes(), (*done, "to Lab")
    elif not done and _is_plain_jpeg(data):
        stored = data
    else:
        stored, done = encode(pixels, quality, subsampling), (*done, "encoded")
    return Photograph(
        stored=stored,
        size=size,
        original_size=original_size,
        done=done,
        is_grey=bool(np.abs(ab).max() <= GREY_LIMIT),
        ab_cells=cells,
        ab_counts=counts,
    )


def reduced(size: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """Width and height with the shorter of them reduced to `short_side`, or as they are if it is no longer."""
    if short_side is None or min(size) <= short_side:
        return size
    factor = short_side / min(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def decode(data: bytes) -> tuple[Image.Image, tuple[str, ...]]:
    """The file's upright 8-bit RGB picture, and what had to be done to get it. Raises Rejected.

    Colours are brought to sRGB by the embedded profile, 16-bit samples are scaled, transparency is laid on white, CMYK
    is converted, of animations the first frame is taken.
    """
    pixels, _, done = decode_at_least(data, None)
    return Image.fromarray(pixels), done


def decode_at_least(data: bytes, short_side: int | None) -> tuple[Pixels, tuple[int, int], tuple[str, ...]]:
    """As `decode`, but an array (H, W, 3), with the upright picture's own size between; smaller if that is faster.

    It is never smaller than `SCALED_AT_LEAST` times what its reduction to `short_side` needs.
    """
    if not data:
        raise Rejected("empty file")
    with rejecting():
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_size(image.size)
        if image.format in ("JPEG", "MPO"):
            picture, done = strict_jpeg(data, image, reduced(image.size, short_side))
        else:
            check_planes(image)
            image.load()
            picture, done = image, (f"from {image.format}",)
        profile = image.info.get("icc_profile")
        transform = to_srgb(profile, "CMYK" if image.mode == "CMYK" else "RGB") if profile else None
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG, 1))
        if isinstance(picture, np.ndarray):
            if transform is None and turn is None:
                return picture, image.size, done  # as most are
            picture = Image.fromarray(picture)
        if picture.mode != "CMYK" or transform is None:
            picture, done = _in_rgb(picture, done)
        if transform is not None:
            picture, done = ImageCms.applyTransform(picture, transform) or picture, (*done, "brought to sRGB")
        size = image.size
        if turn is not None:
            picture, done = picture.transpose(turn), (*done, "turned upright")
            size = size[::-1] if turn in _ON_THE_SIDE else size
        return np.array(picture), size, done


@contextmanager
def rejecting() -> Iterator[None]:
    """Makes Rejected of all that Pillow raises of a file, and keeps its warnings of bombs: our own limit is checked."""
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
        except Exception as error:  # Pillow's plugins raise every kind: OSError, SyntaxError, struct.error, ...
            raise Rejected("damaged", f"{type(error).__name__}: {error}") from None


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if min(size) < MIN_SIDE:
        raise Rejected("too small", f"{width}x{height}, the smallest side that is packed is {MIN_SIDE}")
    if max(size) > MAX_SIDE:
        raise Rejected("too many pixels", f"{width}x{height}, the longest side that is packed is {MAX_SIDE}")
    if width * height > MAX_PIXELS:
        raise Rejected("too many pixels", f"{width}x{height}, the largest area that is packed is {MAX_PIXELS}")


def strict_jpeg(
    data: bytes, image: Image.Image, wanted: tuple[int, int]
) -> tuple[Image.Image | Pixels, tuple[str, ...]]:
    """The JPEG decoded by libjpeg-turbo with warnings as errors; `image` is Pillow's view of the same bytes."""
    width, height = (min(side, round(SCALED_AT_LEAST * wish)) for side, wish in zip(image.size, wanted, strict=True))
    try:
        if image.mode == "CMYK":
            # libjpeg-turbo checks the data, Pillow knows Adobe's inverted inks.
            simplejpeg.decode_jpeg(data, colorspace="CMYK", strict=True)
            image.load()
            return image, ()
        # Scales between 1/2 and 1 take longer than a full decode.
        pixels = simplejpeg.decode_jpeg(
            data, colorspace="RGB", strict=True, min_factor=2, min_width=width, min_height=height
        )
    except ValueError as error:
        if "subsampling" in str(error):  # one that libjpeg-turbo has no name for
            image.load()
            return image, ("unusual sampling",)
        raise Rejected("damaged JPEG", str(error)) from None
    return pixels, ("from grey",) if image.mode == "L" else ()


def _in_rgb(image: Image.Image, done: tuple[str, ...]) -> tuple[Image.Image, tuple[str, ...]]:
    """The picture in 8-bit RGB, its colours in whatever space they were."""
    if image.mode.startswith("I;16") or image.mode == "I":
        image, done = (
            Image.fromarray(((deep_grey(image).astype(np.int64) + 128) // 257).astype(np.uint8)),
            (*done, "from 16 bit"),
        )
    elif image.mode == "F":
        raise Rejected("unsupported pixels", "floating point samples have no known white")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
        return image, (*done, "laid on white")
    if image.mode != "RGB":
        return image.convert("RGB"), (*done, f"from {image.mode}")
    return image, done


def check_planes(image: Image.Image) -> None:
    """Raises Rejected for a TIFF with more than 8 bit in separate planes, of which Pillow makes noise."""
    if isinstance(image, TiffImageFile) and image.tag_v2.get(_PLANES) == 2 and max(image.tag_v2.get(_BITS, (8,))) > 8:
        raise Rejected("unsupported pixels", "more than 8 bit in separate planes")


def deep_grey(image: Image.Image) -> NDArray[np.uint16]:
    """The grey (H, W) of a picture of mode I or I;16 in 16 bit, black being 0. Raises Rejected for more bits."""
    samples = np.asarray(image)
    if samples.dtype != np.uint16 and (samples.min() < 0 or samples.max() > 65535):
        raise Rejected("unsupported pixels", "samples of 32 bit have no known white")
    grey = samples.astype(np.uint16)
    if isinstance(image, TiffImageFile):
        if image.tag_v2.get(_BITS) in (12, (12,)):
            grey = grey * np.uint16(16) + (grey >> np.uint16(8))
        if image.tag_v2.get(_PHOTOMETRIC) == 0:  # white is 0
            grey = ~grey
    return grey


@lru_cache(maxsize=64)
def to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """What brings a picture of that mode, RGB or CMYK, to sRGB; None when it is there, or the profile is no use."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError):  # viewers show such pictures as if they had none
        return None
    if mode == "RGB":
        # UniquePaths do not tell: sRGB comes under many, and others carry it in theirs.
        steps = np.linspace(0, 255, 9).round().astype(np.uint8)
        colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(27, 27, 3)
        converted = ImageCms.applyTransform(Image.fromarray(colours), transform)
        assert converted is not None
        if np.abs(np.asarray(converted).astype(int) - colours).max() <= 2:
            return None
    return transform


def resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """The picture at another (width, height), by Pillow's antialiased bicubic filter.

    torch's uint8 kernel computes it 4 times as fast as Pillow (docs), to the same bytes on every processor.
    """
    import torch

    planes = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)  # channels last, which the result then is too
    small = torch.nn.functional.interpolate(planes, size=size[::-1], mode="bicubic", antialias=True)
    return np.ascontiguousarray(small.permute(0, 2, 3, 1)[0].numpy())


def ab_of(pixels: Pixels) -> NDArray[np.float64]:
    """a and b (2, n) of every 4th pixel each way: CIE Lab of sRGB, D65, 2 degree observer."""
    rgb = np.ascontiguousarray(pixels[::AB_STRIDE, ::AB_STRIDE].reshape(-1, 3).T)
    x, y, z = _cube_root(TO_XYZ @ LINEAR.take(rgb))
    return np.stack([500 * (x - y), 200 * (y - z)])


def _cube_root(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIE's f: a cube root, with a straight line near black."""
    root = np.exp(np.log(np.maximum(t, EDGE)) / 3)  # in half the time of np.cbrt
    return np.where(t > EDGE, root, SLOPE * t + INTERCEPT)


def count_cells(ab: NDArray[np.float64]) -> tuple[NDArray[np.uint16], NDArray[np.uint32]]:
    """Which squares of one Lab unit a and b (2, n) fall into, numbered as in Photograph, and how many into each."""
    a, b = (ab + 128.5).astype(np.uint16)  # rounded; no colour of sRGB lies beyond -128 or 127
    cells = np.sort(a * np.uint16(256) + b, kind="stable")  # by radix: in a third of np.unique's time
    starts = np.flatnonzero(np.diff(cells, prepend=~cells[:1]))
    return cells[starts], np.diff(np.append(starts, len(cells))).astype(np.uint32)


def encode(pixels: Pixels, quality: int, subsampling: Subsampling) -> bytes:
    """The picture as JPEG."""
    return bytes(
        simplejpeg.encode_jpeg(pixels, quality=quality, colorspace="RGB", colorsubsampling=subsampling, fastdct=False)
    )


def _is_plain_jpeg(data: bytes) -> bool:
    """Whether every decoder, of CPUs and GPUs, sees in these sound bytes the same picture.

    That is: baseline or progressive, Huffman-coded, in YCbCr, and with nothing behind its end.
    """
    if simplejpeg.decode_jpeg_header(data)[2] != "YCbCr":
        return False
    place = 2
    while True:  # over the segments; scans are passed over up to the next marker
        marker = _MARKER.search(data, place)
        if marker is None:
            return False
        kind, place = data[marker.end() - 1], marker.end()
        if kind == _END:
            return place == len(data)
        if kind in _FRAMES and kind not in _PLAIN_FRAMES:
            return False
        place += int.from_bytes(data[place : place + 2])


def check_bytes(size: int) -> None:
    """Raises Rejected for a file that is too large to be read."""
    if size > MAX_BYTES:
        raise Rejected("too large", f"{size:,} bytes, the largest file that is read has {MAX_BYTES:,}")


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The file's bytes; raises Rejected when the system does not hand them out."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise Rejected("no regular file")  # reading a pipe would wait for ever
        check_bytes(status.st_size)
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise Rejected("unreadable", error.strerror or str(error)) from None
