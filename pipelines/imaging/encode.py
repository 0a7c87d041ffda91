"""Encodes RGB pixels as a shard set stores them: a JPEG that CPU and GPU decoders read alike, or Lab in bytes."""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import simplejpeg

from ..shards import Store
from .decode import Pixels

RESAMPLER = "bicubic"  # Pillow's, with antialiasing: the resize of the original project

# The start of a JPEG segment (neither a data byte nor a restart marker of a scan), the end marker, and frame types.
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]", re.DOTALL)
_END = 0xD9
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PLAIN_FRAMES = {0xC0, 0xC2}  # baseline and progressive

Subsampling = Literal["444", "422", "420"]


@dataclass(frozen=True, kw_only=True)
class EncodingSettings:
    """Image settings of a shard set: short side in pixels (None keeps the size), JPEG quality and chroma subsampling.

    Quality and subsampling have no effect when `store` is "lab".
    """

    short_side: int | None = None
    quality: int = 95
    subsampling: Subsampling = "444"
    store: Store = "jpeg"


def resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Returns the image at another (width, height), by Pillow's antialiased bicubic filter.

    torch's uint8 kernel computes it 4 times as fast as Pillow (docs/packing.md), with the same bytes on every CPU.
    """
    import torch

    planes = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)  # channels last, and so is the result
    small = torch.nn.functional.interpolate(planes, size=size[::-1], mode=RESAMPLER, antialias=True)
    return np.ascontiguousarray(small.permute(0, 2, 3, 1)[0].numpy())


def encode_jpeg(pixels: Pixels, quality: int, subsampling: Subsampling) -> bytes:
    """Returns the image as JPEG."""
    return bytes(
        simplejpeg.encode_jpeg(pixels, quality=quality, colorspace="RGB", colorsubsampling=subsampling, fastdct=False)
    )


def is_plain_jpeg(data: bytes) -> bool:
    """True if all decoders, on CPUs and GPUs, decode these sound JPEG bytes to the same image.

    That is the case for baseline and progressive JPEGs in YCbCr, Huffman-coded, with nothing behind the end marker.
    """
    if simplejpeg.decode_jpeg_header(data)[2] != "YCbCr":
        return False
    offset = 2
    while marker := _MARKER.search(data, offset):  # segment by segment; scan data is skipped up to the next marker
        kind, offset = data[marker.end() - 1], marker.end()
        if kind == _END:
            return offset == len(data)
        if kind in _FRAMES and kind not in _PLAIN_FRAMES:
            return False
        offset += int.from_bytes(data[offset : offset + 2])
    return False
