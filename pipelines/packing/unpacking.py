"""Unpacks gzip, bzip2 and xz to the last byte of the file. The standard library's readers skip or refuse a tail."""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any

_READ = 1 << 16

_DECOMPRESSORS: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(wbits=31),  # gzip, with its checksum
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ": lzma.LZMADecompressor,
}


def is_compressed(head: bytes) -> bool:
    """True if a file that begins with these bytes is gzip, bzip2 or xz."""
    return head.startswith(tuple(_DECOMPRESSORS))


class Unpacked(io.RawIOBase):
    """The unpacked bytes of a file, of all its parts if several were joined.

    `num_unread` counts the bytes behind the last part that belong to none; zeros are padding, and do not count. Raises
    EOFError, LZMAError, zlib.error or OSError where the file is cut or damaged.
    """

    def __init__(self, file: "io.BufferedReader[io.RawIOBase]") -> None:
        self._file, self._position, self.num_unread = file, 0, 0
        self._magic = next(magic for magic in _DECOMPRESSORS if file.peek(8).startswith(magic))
        self._part, self._packed, self._is_over = _DECOMPRESSORS[self._magic](), b"", False

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = b""
        while not data and len(buffer) and not self._is_over:
            if self._part.eof:
                self._begin_part()
            else:
                data = self._unpack(len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _unpack(self, size: int) -> bytes:
        """Returns up to `size` bytes, perhaps none yet."""
        part, packed = self._part, self._packed
        is_hungry = not packed and getattr(part, "needs_input", True)  # zlib's decompressor lacks this
        if is_hungry:
            packed = self._file.read1(_READ)
        data: bytes = part.decompress(packed, size)
        self._packed = getattr(part, "unconsumed_tail", b"")  # the others keep it
        if is_hungry and not packed and not data and not part.eof:
            raise EOFError("it ends before its end is marked")
        return data

    def _begin_part(self) -> None:
        """Begins the next part, or reads the file to its end if none is left."""
        rest = self._part.unused_data.lstrip(b"\0")
        while len(rest) < len(self._magic) and (data := self._file.read(_READ)):
            rest = (rest + data).lstrip(b"\0")
        if rest.startswith(self._magic):
            self._part, self._packed = _DECOMPRESSORS[self._magic](), rest
            return
        self._is_over = True
        while rest:
            self.num_unread += len(rest)
            rest = self._file.read(_READ)
