"""Tests that all loaders show odd files alike, and never turn one: what the packer took for upright stays so."""

import io
import itertools
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from photochrom.pipelines import CachedLoader, DaliLoader, Loader, PackConfig, ShardSet, TorchLoader, pack
from photochrom.pipelines.packing.index import IndexConfig, index
from photochrom.pipelines.packing.verify import VerifyConfig, verify
from PIL import Image, ImageOps
from skimage.color import rgb2lab

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL.*")  # of damaged EXIF

BYTE, ASCII, SHORT, LONG, RATIONAL, SSHORT, FLOAT, UNKNOWN = 1, 2, 3, 4, 5, 8, 11, 99
SIZES = ((48, 48), (48, 36))
MARKS = b"\xff\xe0\0\x08JFXX\0\x10" + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x01" + b"\xff\xfe\0\x06tree"
XMP = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="%d"/></x:xmpmeta>'
PROFILE_TWICE = 2 * (b"\xff\xe2\0\x14ICC_PROFILE\0\1\1" + bytes(4))


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def exif(orientation: int, kind: int = SHORT, count: int = 1, order: str = "<") -> bytes:
    """Returns an EXIF segment with one tag, the orientation; a value of 8 bytes lies behind the directory."""
    code = {BYTE: "B", ASCII: "B", LONG: "L", FLOAT: "f"}.get(kind, "H")
    value = struct.pack(f"{order}{code}", orientation).ljust(4, b"\0")
    behind = b""
    if kind == RATIONAL:
        value, behind = struct.pack(f"{order}L", 26), struct.pack(f"{order}LL", orientation, 1)
    head = struct.pack(f"{order}2sHLHHHL", b"II" if order == "<" else b"MM", 42, 8, 1, 0x0112, kind, count)
    return segment(0xE1, b"Exif\0\0" + head + value + bytes(4) + behind)


def oddities() -> dict[str, bytes]:
    """Returns segments that state an orientation, well or badly, by name."""
    found = {
        f"{kind}-{order == '<'}-{orientation}": exif(orientation, kind, order=order)
        for kind, order, orientation in itertools.product((BYTE, SHORT, LONG, UNKNOWN), "<>", range(1, 9))
    }
    for orientation in (3, 6):
        found |= {f"kind {kind}-{orientation}": exif(orientation, kind) for kind in (ASCII, RATIONAL, SSHORT, FLOAT)}
        found |= {f"count {count}-{orientation}": exif(orientation, count=count) for count in (0, 2, 2**31)}
        found |= {
            f"two segments-{orientation}": exif(1) + exif(orientation),
            f"two segments, the first with it-{orientation}": exif(orientation) + exif(1),
            f"behind other marks-{orientation}": MARKS + exif(orientation),
            f"in XMP only-{orientation}": segment(0xE1, XMP % orientation),
            f"in XMP, EXIF says 1-{orientation}": exif(1) + segment(0xE1, XMP % orientation),
            f"profile twice-{orientation}": PROFILE_TWICE + exif(orientation),
            f"cut-{orientation}": segment(0xE1, exif(orientation)[4:-8]),
        }
    found |= {f"value {value}": exif(value) for value in (0, 9, 255)}
    return found | {
        "profile twice": PROFILE_TWICE,
        "junk": b"junk",
        "profile twice, byte": PROFILE_TWICE + exif(6, BYTE),
    }


def photographs(coffee: Image.Image) -> dict[str, bytes]:
    """Returns a JPEG of each size with each oddity behind its JFIF segment, and PNGs with the same tag."""
    files = {}
    for size in SIZES:
        for kind, orientation in itertools.product((BYTE, SHORT, LONG, UNKNOWN), (3, 6)):
            buffer = io.BytesIO()
            coffee.resize(size).save(buffer, "PNG", exif=exif(orientation, kind)[4:])
            files[f"{kind}-{orientation}-{size[1]}.png"] = buffer.getvalue()
        buffer = io.BytesIO()
        coffee.resize(size).save(buffer, "JPEG", quality=95)
        data = buffer.getvalue()
        files |= {f"{name}-{size[1]}.jpg": data[:20] + marks + data[20:] for name, marks in oddities().items()}
    return files


def lab_by_path(loader: Loader) -> dict[str, torch.Tensor]:
    batches = list(loader)
    return {
        loader.data.sample(i).path: lab
        for batch in batches
        for i, lab in zip(batch.index.tolist(), torch.cat([batch.L, batch.ab], 1), strict=True)
    }


def check_loaders(root: Path, files: dict[str, bytes]) -> set[str]:
    """Asserts that each loader shows each photograph as Pillow turns it; returns their names."""
    data = ShardSet.open(root)
    settings = {"batch_size": 64, "size": 36, "train": False, "crop": "squash"}
    loaded = [lab_by_path(kind(data, **settings)) for kind in (TorchLoader, DaliLoader, CachedLoader)]
    for path in loaded[0]:
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(files[Path(path).name])))
        expected = rgb2lab(np.asarray(upright.resize((36, 36), Image.Resampling.BILINEAR)))
        for labs in loaded:
            assert np.abs(labs[path].permute(1, 2, 0).numpy() - expected).mean() < 2.5, path
            assert (labs[path] - loaded[0][path]).abs().mean() < 0.5, path
    return {Path(path).name for path in loaded[0]}


def test_packed_photographs_are_turned_once(coffee: Image.Image, tmp_path: Path) -> None:
    files = photographs(coffee)
    (tmp_path / "in").mkdir()
    for name, data in files.items():
        (tmp_path / "in" / name).write_bytes(data)
    pack(PackConfig(source=tmp_path / "in", out=tmp_path / "out", workers=2))
    assert check_loaders(tmp_path / "out", files) == set(files)


def test_adopted_photographs_are_not_turned(coffee: Image.Image, tmp_path: Path) -> None:
    files = photographs(coffee)
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    index(IndexConfig(root=tmp_path, workers=2))
    upright = {
        name for name, data in files.items() if Image.open(io.BytesIO(data)).getexif().get(0x0112, 1) not in range(2, 9)
    } - {"junk-48.jpg", "junk-36.jpg"}  # DALI refuses them
    assert check_loaders(tmp_path, files) == upright
    assert 20 < len(upright) < len(files)
    assert verify(VerifyConfig(root=tmp_path, decode=True, workers=1)) == []
