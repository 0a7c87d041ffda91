"""Decodes text that people supply (lists, partitions, labels, settings), also as Windows writes it."""

import codecs
from pathlib import Path

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def decode_text(data: bytes, name: str, *, errors: str = "strict") -> str:
    """Returns the text in UTF-8, with or without a mark, or in UTF-16 (or UTF-32) with one.

    The mark is the byte order mark (BOM). Text whose every second byte is NUL is UTF-16 without a mark. `errors` is
    that of bytes.decode; surrogateescape keeps file names of any bytes (in UTF-8), and NULs, which may separate names.
    Raises ValueError with one sentence about `name` for bytes that are not text, unless `errors` is "replace".
    """
    encoding = next((value for mark, value in _MARKS.items() if data.startswith(mark)), None) or _unmarked(data)
    is_wide = not encoding.startswith("utf-8")
    try:
        text = data.decode(encoding, "strict" if is_wide and errors == "surrogateescape" else errors)
    except UnicodeDecodeError as error:
        found = f"byte 0x{data[error.start]:02x} at offset {error.start:,}"
        raise ValueError(f"{name} is not text in UTF-8 or UTF-16 ({found}): save it as UTF-8") from None
    if errors == "strict" and "\0" in text:
        raise ValueError(f"{name} is not text: it holds NUL characters; save it as UTF-8")
    return text


def read_text(path: Path) -> str:
    """Returns the text of a file, as `decode_text` does. Raises OSError, and ValueError with one sentence."""
    return decode_text(path.read_bytes(), str(path))


def _unmarked(data: bytes) -> str:
    """Returns the encoding of bytes that begin with no mark."""
    is_even = len(data) > 0 and len(data) % 2 == 0
    if is_even and not any(data[1::2]) and any(data):
        return "utf-16-le"
    return "utf-16-be" if is_even and not any(data[::2]) and any(data) else "utf-8"
