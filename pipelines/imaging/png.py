"""Checks a PNG as strictly as a JPEG: Pillow fails at a wrong checksum of text, and ignores one of pixels."""

import struct
import zlib

from PIL import PngImagePlugin

# Texts of more than 1 MB, such as the workflow of a generator, are no reason to reject an image; all together stay
# below Pillow's limit of 64 MB.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def check_chunks(data: bytes) -> bytes:
    """Returns a PNG without damaged ancillary chunks (text, date, profile); other files unchanged.

    Raises ValueError for a damaged chunk of pixels, palette, opacity or header.
    """
    offset, kept, parts, kind = len(_SIGNATURE), 0, [], b""
    while data.startswith(_SIGNATURE) and kind != b"IEND" and offset + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, offset)
        kind, end = data[offset + 4 : offset + 8], offset + 12 + length
        if end > len(data):  # cut: Pillow says so
            break
        if zlib.crc32(memoryview(data)[offset + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
            if kind[:1].isupper() or kind == b"tRNS":
                raise ValueError(f"wrong checksum of {kind.decode('ascii', 'replace')}")
            parts.append(data[kept:offset])
            kept = end
        offset = end
    return b"".join([*parts, data[kept:]]) if parts else data
