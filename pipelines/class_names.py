"""Classes and official partitions of photographs, by their paths."""

import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from .text_file import decode_text, read_text

# SUN397/a/abbey/x.jpg and SUN2012/Images/a/apartment_building/outdoor/x.jpg: the letter is not part of the class.
_SUN = re.compile(r"(?:^|.*/)(?:SUN397|Images)/[a-z]/(.+)/[^/]+", re.DOTALL)
_SUN_ROOT = re.compile(r"(?:^|.*/)SUN397(?=/)", re.DOTALL)


def class_of(path: str, source_name: str = "") -> str:
    """Returns the class of the photograph at `path` in a source of that name: by SUN's layout, else its folder.

    >>> class_of("SUN397/a/apartment_building/outdoor/x.jpg"), class_of("cats/x.jpg"), class_of("x.jpg")
    ('apartment_building/outdoor', 'cats', '')
    """
    if match := _SUN.fullmatch(f"{source_name}/{path}"):
        return match[1]
    folder = PurePosixPath(path).parent.as_posix()
    return "" if folder == "." else folder


def read_partition(path: Path, number: int) -> dict[str, str]:
    """Reads SUN397's official partition `number` (1..10): a map from "/a/abbey/sun_x.jpg" to "train" or "test".

    `path` is Partitions.zip, or a folder that holds its files. Raises ValueError.
    """
    files = _texts(path)
    parts: dict[str, str] = {}
    for name, part in ((f"Training_{number:02}.txt", "train"), (f"Testing_{number:02}.txt", "test")):
        if name not in files:
            raise ValueError(f"{path} holds no {name}: SUN397's partitions are numbered 1 to 10")
        for line in filter(None, map(str.strip, files[name].splitlines())):
            if parts.setdefault(line, part) != part:
                raise ValueError(f"{path}: {line} is both in Training_{number:02}.txt and in {name}")
    return parts


def part_of(path: str, partition: Mapping[str, str]) -> str | None:
    """Returns the part, "train" or "test", of the photograph at `path` in a source; None if it is in neither."""
    inside = _SUN_ROOT.sub("", f"/{path}", count=1)
    return partition.get(inside)


def _texts(path: Path) -> dict[str, str]:
    """Returns the texts of the partition files by name."""
    try:
        if path.is_dir():
            return {file.name: read_text(file) for file in path.rglob("T*ing_*.txt")}
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".txt")]
            return {PurePosixPath(name).name: decode_text(archive.read(name), f"{path}: {name}") for name in names}
    except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:  # RuntimeError: encrypted
        raise ValueError(f"{path} cannot be read as SUN397's partitions ({error})") from None
