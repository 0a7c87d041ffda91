"""Miniatures of SUN397 and SUN2012, of the documented layout, holding every oddity that such archives are known for.

SUN397: SUN397/<letter>/<class>[/<subclass>]/sun_*.jpg, with ClassName.txt; its files are JPEG, PNG, GIF and BMP, all
named .jpg, two of them badly encoded. SUN2012: SUN2012/Images/... beside SUN2012/Annotations/*.xml.
"""

import csv
import hashlib
import io
import os
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from photochrom.losses import ab_histogram
from photochrom.pipelines import PackConfig, ShardSet, pack
from photochrom.pipelines.packing import WORK
from PIL import Image

Outcome = str  # "packed", "grey", or a reason of rejection


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def turned(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, "JPEG", quality=90, exif=exif)


def sixteen_bit(image: Image.Image) -> bytes:
    return encoded(Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), "PNG")


def oddities(coffee: Image.Image) -> dict[str, tuple[bytes, Outcome]]:
    """By name, what SUN's folders hold under .jpg, and what becomes of it."""
    jpeg = encoded(coffee, "JPEG", quality=90)
    size = struct.pack(">HH", coffee.height, coffee.width)
    at = jpeg.index(size)
    clear = coffee.convert("RGBA")
    clear.putalpha(128)
    palette = coffee.convert("P")
    other = Image.new("RGB", coffee.size, "red")
    many = {"save_all": True, "append_images": [other]}
    bmp = encoded(coffee, "BMP")
    return {
        "plain": (jpeg, "packed"),
        "progressive": (encoded(coffee, "JPEG", progressive=True), "packed"),
        "PNG": (encoded(coffee, "PNG"), "packed"),
        "interlaced PNG": (interlaced(), "packed"),
        "PNG with alpha": (encoded(clear, "PNG"), "packed"),
        "palette PNG": (encoded(palette, "PNG"), "packed"),
        "grey PNG": (encoded(coffee.convert("L"), "PNG"), "grey"),
        "1-bit PNG": (encoded(coffee.convert("1"), "PNG"), "grey"),
        "grey and alpha": (encoded(coffee.convert("LA"), "PNG"), "grey"),
        "16-bit grey PNG": (sixteen_bit(coffee), "grey"),
        "GIF": (encoded(coffee, "GIF"), "packed"),
        "animated GIF": (encoded(coffee, "GIF", **many), "packed"),
        "animated PNG": (encoded(coffee, "PNG", **many), "packed"),
        "animated WebP": (encoded(coffee, "WEBP", **many), "packed"),
        "two JPEGs in one (MPO)": (encoded(coffee, "MPO", **many), "packed"),
        "BMP": (bmp, "packed"),
        "cut BMP": (bmp[: len(bmp) // 2], "damaged"),
        "TIFF": (encoded(coffee, "TIFF"), "packed"),
        "WebP": (encoded(coffee, "WEBP"), "packed"),
        "TGA": (encoded(coffee, "TGA"), "packed"),
        "CMYK JPEG": (encoded(coffee.convert("CMYK"), "JPEG", quality=95), "packed"),
        "grey JPEG": (encoded(coffee.convert("L"), "JPEG"), "grey"),
        "grey as RGB": (encoded(coffee.convert("L").convert("RGB"), "JPEG"), "grey"),
        "turned by EXIF": (turned(coffee), "packed"),
        "zip behind the end": (jpeg + b"PK\x03\x04 and more", "packed"),
        "empty": (b"", "empty file"),
        "one byte": (b"\xff", "not an image"),
        "first marker only": (jpeg[:2], "not an image"),
        "a web page": (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "not an image"),
        "cut at 2 %": (jpeg[: len(jpeg) // 50], "damaged JPEG"),
        "cut at 50 %": (jpeg[: len(jpeg) // 2], "damaged JPEG"),
        "cut at 90 %": (jpeg[: len(jpeg) * 9 // 10], "damaged JPEG"),
        "cut at 99 %": (jpeg[: len(jpeg) * 99 // 100], "damaged JPEG"),
        "cut at 99.9 %": (jpeg[: len(jpeg) * 999 // 1000], "damaged JPEG"),
        "last ten bytes gone": (jpeg[:-10], "damaged JPEG"),
        "no end marker": (jpeg[:-2], "damaged JPEG"),
        "4 KB of zeros": (jpeg[:20000] + bytes(4096) + jpeg[24096:], "damaged JPEG"),
        "junk before the start": (b"junk" + jpeg, "not an image"),
        "height 0": (jpeg[:at] + bytes(2) + jpeg[at + 2 :], "damaged"),
        "height 65535": (jpeg[:at] + b"\xff\xff" + jpeg[at + 2 :], "damaged JPEG"),
        "12 bits a sample": (jpeg[: at - 1] + b"\x0c" + jpeg[at:], "damaged"),
        "arithmetic coding": (jpeg.replace(b"\xff\xc0", b"\xff\xc9", 1), "damaged JPEG"),
        "lossless JPEG": (jpeg.replace(b"\xff\xc0", b"\xff\xc3", 1), "damaged JPEG"),
        "a bomb": (png_header(100_000, 100_000), "too many pixels"),
        "1x1": (encoded(coffee.resize((1, 1)), "PNG"), "too small"),
        "1x500": (encoded(coffee.resize((1, 500)), "PNG"), "too small"),
        "20000x10": (encoded(coffee.resize((20000, 10)), "PNG"), "too small"),
        "8000x400": (encoded(coffee.resize((8000, 400)), "JPEG"), "packed"),
    }


def interlaced() -> bytes:
    """An Adam7 PNG of 64x64 pixels, which Pillow reads but does not write."""
    y, x = np.mgrid[:64, :64]
    pixels = np.stack([4 * x, 4 * y, 255 - 2 * x - 2 * y], axis=-1).astype(np.uint8)
    rows = b""
    for top, left, down, right in ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)):
        for row in pixels[top::down, left::right]:
            rows += b"\0" + row.tobytes()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
