"""Odd PNGs, TIFFs, BMPs and others: what Pillow cannot read is called so, and the picture is never another one."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import tifffile
from photochrom.pipelines.imaging.decode import Rejected, decode, open_image
from PIL import Image
from PIL.PngImagePlugin import PngInfo


@pytest.fixture(scope="module")
def rgb(coffee: Image.Image) -> np.ndarray:
    return np.asarray(coffee.resize((96, 64)))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(*pages: np.ndarray, **settings: Any) -> bytes:
    """Returns a TIFF; a setting that is a list has one value for each page."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        for number, page in enumerate(pages):
            own = {key: value[number] if isinstance(value, list) else value for key, value in settings.items()}
            file.write(page, metadata=None, **own)
    return buffer.getvalue()


def with_tag(data: bytes, tag: int, value: int) -> bytes:
    """Returns a little-endian TIFF with another value for a SHORT of its first page."""
    changed, (start,) = bytearray(data), struct.unpack_from("<L", data, 4)
    (number,) = struct.unpack_from("<H", data, start)
    offsets = range(start + 2, start + 2 + 12 * number, 12)
    (offset,) = (offset for offset in offsets if struct.unpack_from("<H", data, offset)[0] == tag)
    struct.pack_into("<H", changed, offset + 8, value)
    return bytes(changed)


UNSUPPORTED_TIFFS = {
    "floats": lambda rgb: tiff(rgb.astype(np.float32), photometric="rgb"),
    "float16 grey": lambda rgb: tiff(rgb[..., 0].astype(np.float16), photometric="minisblack"),
    "float64 grey": lambda rgb: tiff(rgb[..., 0].astype(np.float64), photometric="minisblack"),
    "32 bit": lambda rgb: tiff(rgb.astype(np.uint32), photometric="rgb"),
    "grey and opacity in 16 bit": lambda rgb: tiff(
        rgb[..., :2].astype(np.uint16), photometric="minisblack", extrasamples="unassalpha"
    ),
    "grey and infrared in 16 bit": lambda rgb: tiff(
        rgb[..., :2].astype(np.uint16), photometric="minisblack", extrasamples="unspecified"
    ),
    "two infrared channels in 16 bit": lambda rgb: tiff(
        np.dstack([rgb, rgb[..., :2]]).astype(np.uint16), photometric="rgb", extrasamples=("unspecified",) * 2
    ),
    "seven channels": lambda rgb: tiff(
        np.dstack([rgb, rgb, rgb[..., 0]]), photometric="rgb", extrasamples=("unspecified",) * 4
    ),
    "infrared in planes": lambda rgb: tiff(
        np.stack([*np.moveaxis(rgb, 2, 0), rgb[..., 0]]),
        photometric="rgb",
        planarconfig="separate",
        extrasamples=("unspecified",),
    ),
    "Lab in 16 bit": lambda rgb: tiff(rgb.astype(np.uint16), photometric="cielab"),
    "samples of a sensor": lambda rgb: with_tag(tiff(rgb[..., 0], photometric="minisblack"), 262, 32803),
    "LERC": lambda rgb: with_tag(tiff(rgb, photometric="rgb"), 259, 34887),
    "signed": lambda rgb: tiff(rgb[..., 0].astype(np.int8), photometric="minisblack"),
    "a camera's raw file": lambda rgb: tiff(rgb, photometric="rgb", subfiletype=1),
    "a raw file's thumbnail and sensor": lambda rgb: tiff(
        rgb, rgb.astype(np.float32), photometric="rgb", subfiletype=[1, 0]
    ),
}


@pytest.mark.parametrize("case", UNSUPPORTED_TIFFS)
def test_pixels_that_pillow_cannot_read_are_called_so(rgb: np.ndarray, case: str) -> None:
    with pytest.raises(Rejected, match=r"^unsupported pixels"):
        decode(UNSUPPORTED_TIFFS[case](rgb))


def test_the_picture_is_not_its_thumbnail(rgb: np.ndarray) -> None:
    small = rgb[::2, ::2]
    for data in (
        tiff(small, rgb, photometric="rgb", subfiletype=[1, 0]),
        tiff(small, rgb[::4, ::4], rgb, photometric="rgb", subfiletype=[1, 1, 0]),
        tiff(rgb, small, photometric="rgb", subfiletype=[0, 1]),
        tiff(rgb, small.astype(np.float32), photometric="rgb"),
        tiff(small, rgb, photometric="rgb", extratags=[[(255, 3, 1, 2, True)], [(255, 3, 1, 1, True)]]),
    ):
        assert np.array_equal(decode(data).pixels, rgb)
    assert open_image(tiff(small, rgb, photometric="rgb")).size == (48, 32), "pages: the first is the picture"


def test_channels_beside_the_colors_are_left_out(rgb: np.ndarray) -> None:
    for depth, extra in ((np.uint8, 1), (np.uint8, 3), (np.uint16, 1)):
        samples = np.dstack([rgb, *[rgb[::-1, :, 0]] * extra]).astype(depth) * (257 if depth == np.uint16 else 1)
        decoded = decode(tiff(samples, photometric="rgb", extrasamples=("unspecified",) * extra))
        assert np.array_equal(decoded.pixels, rgb)
        assert ("from 16 bit" in decoded.changes) == (depth == np.uint16)


def chunk(kind: bytes, body: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt", "tIME", "pHYs", "eXIf", "iCCP", "gAMA", "prVt"])
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_damaged_note_does_not_reject_a_png(rgb: np.ndarray, kind: str, place: str) -> None:
    data = encoded(Image.fromarray(rgb), "PNG")
    offset = 33 if place == "before" else len(data) - 12
    damaged = data[:offset] + chunk(kind.encode(), b"a\0bc", checksum=0) + data[offset:]
    assert np.array_equal(decode(damaged).pixels, rgb)
    deep = encoded(Image.fromarray(rgb[..., 0].astype(np.uint16) * 257), "PNG")
    offset = 33 if place == "before" else len(deep) - 12
    damaged = deep[:offset] + chunk(kind.encode(), b"a\0bc", checksum=0) + deep[offset:]
    assert np.array_equal(decode(damaged).pixels[..., 0], rgb[..., 0])


def test_a_text_of_many_megabytes_does_not_reject_a_png(rgb: np.ndarray) -> None:
    notes = PngInfo()
    notes.add_text("workflow", "x" * 3_000_000, zip=True)
    assert np.array_equal(decode(encoded(Image.fromarray(rgb), "PNG", pnginfo=notes)).pixels, rgb)


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"tRNS", b"IDAT"])
def test_a_damaged_part_of_the_picture_rejects_a_png(rgb: np.ndarray, kind: bytes) -> None:
    """Pillow does not check the pixels' checksum."""
    data = bytearray(encoded(Image.fromarray(rgb).quantize(64), "PNG", transparency=1))
    start = data.index(kind)
    (length,) = struct.unpack_from(">I", data, start - 4)
    data[start + 4 + length] ^= 1
    with pytest.raises(Rejected, match=f"damaged: ValueError: wrong checksum of {kind.decode()}"):
        decode(bytes(data))


def test_every_flipped_bit_of_a_png_s_pixels_is_noticed(rgb: np.ndarray) -> None:
    data = encoded(Image.fromarray(rgb), "PNG")
    draw = np.random.default_rng(0)
    for position in draw.integers(data.index(b"IDAT") + 4, len(data) - 16, 100):
        flipped = bytearray(data)
        flipped[position] ^= 1 << draw.integers(8)
        with pytest.raises(Rejected, match="damaged"):
            decode(bytes(flipped))


def bmp(rgb: np.ndarray, alpha: int) -> bytes:
    """Returns a BMP of version 4 whose masks name a fourth byte as opacity."""
    height, width, _ = rgb.shape
    pixels = np.dstack([rgb[::-1, :, ::-1], np.full((height, width), alpha, np.uint8)]).tobytes()
    masks = struct.pack("<LLLL", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<LllHHLLllLL", 108, width, height, 1, 32, 3, len(pixels), 2835, 2835, 0, 0) + masks
    header += bytes(108 - len(header))
    return b"BM" + struct.pack("<LHHL", 14 + len(header) + len(pixels), 0, 0, 14 + len(header)) + header + pixels


def test_an_empty_fourth_byte_is_no_opacity(rgb: np.ndarray) -> None:
    clear = Image.fromarray(np.dstack([rgb, np.zeros_like(rgb[..., 0])]))
    grey = Image.merge("LA", (clear.convert("L"), Image.new("L", clear.size, 0)))
    assert np.array_equal(decode(bmp(rgb, 0)).pixels, rgb)
    assert np.array_equal(decode(encoded(clear, "TGA")).pixels, rgb)
    assert np.array_equal(decode(encoded(clear, "TGA", compression="tga_rle")).pixels, rgb)
    assert np.array_equal(decode(encoded(grey, "TGA")).pixels[..., 0], np.asarray(grey)[..., 0])
    icon = decode(encoded(clear, "ICO", bitmap_format="bmp", sizes=[(96, 64)]))
    assert np.array_equal(icon.pixels, rgb)
    assert "laid on white" in decode(bmp(rgb, 128)).changes
    assert (decode(encoded(clear, "PNG")).pixels == 255).all(), "a PNG means what it says"


def test_opacity_that_is_multiplied_into_the_colors(rgb: np.ndarray) -> None:
    half = np.dstack([rgb[..., 0] // 2, np.full_like(rgb[..., 0], 128)])
    decoded = decode(tiff(half, photometric="minisblack", extrasamples="assocalpha"))
    expected = rgb[..., 0] // 2 + 127.0
    assert np.abs(decoded.pixels[..., 0] - expected).max() <= 3


def test_of_an_animated_png_the_first_frame(rgb: np.ndarray) -> None:
    first, other = Image.fromarray(rgb), Image.new("RGB", (96, 64), "red")
    for options in ({}, {"default_image": True}):
        data = encoded(first, "PNG", save_all=True, append_images=[other, other], **options)
        assert np.array_equal(decode(data).pixels, rgb)
