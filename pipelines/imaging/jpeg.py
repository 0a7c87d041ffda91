"""Decodes JPEGs by libjpeg-turbo with warnings as errors, except those about headers."""

import re
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

# libjpeg-turbo's warnings (jerror.h): True if the pixels are intact all the same. Any other message is damage.
# Extraneous bytes behind a scan are damage, too: flipped bits made the decoder consume too few.
WARNINGS = {
    "Invalid SOS parameters for sequential JPEG": True,  # phones of Samsung; the parameters have no meaning there
    "unknown JFIF revision number": True,
    "Unknown Adobe color transform code": True,
    "bad ICC marker": True,  # parts of a profile are missing, or there twice
    "extraneous bytes before marker": True,  # between the header's segments
    "premature end of data segment": False,
    "Premature end of JPEG file": False,
    "bad Huffman code": False,
    "bad arithmetic code": False,
    "instead of RST": False,
    "Inconsistent progression sequence": False,
}

# The start of a JPEG segment (neither a data byte nor a restart marker of a scan), the end marker, and frame types.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_END, _SCAN = 0xD9, 0xDA
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PLAIN_FRAMES = {0xC0, 0xC2}  # baseline and progressive
_SEQUENTIAL_FRAMES = {0xC0, 0xC1}
_JFIF, _ADOBE, _METADATA = 0xE0, 0xEE, {*range(0xE0, 0xF0), 0xFE}


def decode_strictly(data: bytes, **options: Any) -> tuple[NDArray[np.uint8], bool]:
    """Returns a JPEG's pixels, and whether only its header was faulty; the options are those of simplejpeg.

    Raises ValueError with libjpeg-turbo's message. It reports only the first warning, so a JPEG with a faulty header is
    decoded again with a repaired one: damage behind the header is not missed.
    """
    try:
        return simplejpeg.decode_jpeg(data, strict=True, **options), False
    except ValueError as error:
        if not any(leaves_pixels and message in str(error) for message, leaves_pixels in WARNINGS.items()):
            raise
    return simplejpeg.decode_jpeg(repair_header(data), strict=True, **options), True


def repair_header(data: bytes) -> bytes:
    """Returns a JPEG's scans and tables under a header without faults and metadata."""
    parts: list[bytes | bytearray] = [data[:2]]
    offset, kind, is_sequential, is_cmyk, adobe = 2, 0, False, False, bytearray(14)
    while (marker := _MARKER.search(data, offset)) and data[marker.end() - 1] != _END:
        if kind == _SCAN:  # bytes behind other segments belong to nothing
            parts.append(data[offset : marker.start()])
        kind = data[marker.end() - 1]
        offset = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
        body = bytearray(data[marker.end() : offset])
        if kind in _FRAMES:
            is_sequential, is_cmyk = kind in _SEQUENTIAL_FRAMES, body[7:8] == b"\4"
        if kind == _SCAN and is_sequential:
            body[-3:] = b"\x00\x3f\x00"
        elif kind == _JFIF and body[2:7] == b"JFIF\0" and len(body) >= 16:
            body[7:9] = b"\x01\x01"
        elif kind == _ADOBE and body[2:7] == b"Adobe" and len(body) >= 14:
            adobe = body
        elif kind in _METADATA:
            continue
        parts += [bytes([0xFF, kind]), body]
    if adobe[13]:  # the transform: 0 for RGB and CMYK, 1 for YCbCr, 2 for YCCK
        adobe[13] = 2 if is_cmyk else 1
    return b"".join([*parts, data[marker.start() if marker and kind != _SCAN else offset :]])


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
