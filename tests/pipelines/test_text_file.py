import codecs
import re
from pathlib import Path

import pytest
from photochrom.pipelines.class_names import read_partition
from photochrom.pipelines.text_file import decode_text, read_text

TEXT = "p0.jpg\r\nsüd/Фото.jpg\r\n"


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
        codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be"),
    ],
)
@pytest.mark.parametrize("errors", ["strict", "surrogateescape", "replace"])
def test_text_is_read_by_its_mark(data: bytes, errors: str) -> None:
    assert decode_text(data, "list", errors=errors) == TEXT


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_wide_text_without_a_mark(encoding: str) -> None:
    """As PowerShell's pipes may write it."""
    assert decode_text("/home/a.jpg\r\n".encode(encoding), "list", errors="surrogateescape") == "/home/a.jpg\r\n"


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"s\xfcd", "byte 0xfc at offset 1"),  # Latin-1
        (codecs.BOM_UTF16_LE + b"a", "byte 0x61 at offset 2"),
        (codecs.BOM_UTF16_LE + b"\x00\xd8a\x00", "offset 2"),
        (b"a\0b\0c", "NUL"),
        (b"\0\0", "NUL"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "byte 0x89 at offset 0"),
    ],
)
def test_other_bytes_are_named(data: bytes, found: str, tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_bytes(data)
    with pytest.raises(ValueError, match=f"^{re.escape(str(file))} is not text.*{found}.*save it as UTF-8"):
        read_text(file)
    decode_text(data, "list", errors="replace")


def test_lists_of_names_keep_any_bytes_and_separators() -> None:
    assert decode_text(b"caf\xe9.jpg\0./x\0", "list", errors="surrogateescape") == "caf\udce9.jpg\0./x\0"
    assert decode_text(b"", "list") == ""


def test_partitions_written_by_windows(tmp_path: Path) -> None:
    (tmp_path / "Training_01.txt").write_bytes("/a/abbey/x.jpg\r\n".encode("utf-16"))
    (tmp_path / "Testing_01.txt").write_bytes("/a/abbey/y.jpg\r\n".encode("utf-8-sig"))
    assert read_partition(tmp_path, 1) == {"/a/abbey/x.jpg": "train", "/a/abbey/y.jpg": "test"}
