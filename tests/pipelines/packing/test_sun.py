"""Miniatures of SUN397 and SUN2012, of the documented layout, holding every oddity that such archives are known for.

SUN397: SUN397/<letter>/<class>[/<subclass>]/sun_*.jpg, with ClassName.txt; its files are JPEG, PNG, GIF and BMP, all
named .jpg, two of them badly encoded. SUN2012: SUN2012/Images/... beside SUN2012/Annotations/*.xml.
"""

import csv
import gzip
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
from photochrom.pipelines import PackConfig, ShardSet, pack
from photochrom.pipelines.class_names import read_partition
from photochrom.pipelines.shards import WORK
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
        "height 0": (jpeg[:at] + bytes(2) + jpeg[at + 2 :], "not an image"),
        "height 65500": (jpeg[:at] + b"\xff\xdc" + jpeg[at + 2 :], "damaged JPEG"),
        "12 bits a sample": (jpeg[: at - 1] + b"\x0c" + jpeg[at:], "not an image"),
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
    passes = "0088 0488 4084 0244 2042 0122 1021"  # first row and column, steps down and right
    for top, left, down, right in (map(int, numbers) for numbers in passes.split()):
        for row in pixels[top::down, left::right]:
            rows += b"\0" + row.tobytes()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def sun397(coffee: Image.Image) -> dict[str, tuple[bytes, Outcome]]:
    """Member names of the miniature SUN397, what is in them, and what becomes of each."""
    jpeg = encoded(coffee.resize((300, 200)), "JPEG", quality=90)
    files = {f"SUN397/a/abbey/sun_{name}.jpg": case for name, case in oddities(coffee).items()}
    files["SUN397/a/apartment_building/outdoor/sun_aaa.jpg"] = (jpeg, "packed")
    large = encoded(coffee, "JPEG", quality=90)
    zeros = large[:30000] + bytes(4096) + large[34096:]
    files["SUN397/c/church/outdoor/sun_bhenjvsvrtumjuri.jpg"] = (zeros, "damaged JPEG")
    files["SUN397/t/track/outdoor/sun_aophkoiosslinihb.jpg"] = (jpeg[:-700], "damaged JPEG")
    files["SUN397/ClassName.txt"] = (b"/a/abbey\n/a/apartment_building/outdoor\n", "not an image")
    for name in ("with space", "new\nline", "accénts", "日本", "-dash", "dots.v1.2", "n" * 246, "A", "a"):
        files[f"SUN397/b/beach/{name}.jpg"] = (jpeg, "packed")
    files["SUN397/b/" + "long/" * 60 + "x.jpg"] = (jpeg, "packed")
    return files


UNSAFE = {
    "../outside.jpg": "unsafe name",
    "/absolute.jpg": "unsafe name",
    "SUN397/z/symlink.jpg": "no regular file",
    "SUN397/z/dangling.jpg": "no regular file",
    "SUN397/z/device.jpg": "no regular file",
    "SUN397/z/fifo.jpg": "no regular file",
    "SUN397/b/beach/A.jpg#2": "duplicate name",
}


def write_tar(path: Path, files: dict[str, tuple[bytes, Outcome]], mode: str, *, unsafe: bool = True) -> None:
    def add(archive: tarfile.TarFile, name: str, data: bytes = b"", **fields: object) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        for field, value in fields.items():
            setattr(member, field, value)
        archive.addfile(member, io.BytesIO(data))

    jpeg = files["SUN397/b/beach/A.jpg"][0]
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as archive:
        add(archive, "SUN397", type=tarfile.DIRTYPE)
        for name, (data, _) in files.items():
            add(archive, f"./{name}" if name.endswith("ClassName.txt") else name, data)
        if unsafe:
            add(archive, "../outside.jpg", jpeg)
            add(archive, "/absolute.jpg", jpeg)
            add(archive, "SUN397/z/symlink.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd")
            add(archive, "SUN397/b/hardlink.jpg", type=tarfile.LNKTYPE, linkname="./SUN397/b/beach/A.jpg")
            add(archive, "SUN397/z/dangling.jpg", type=tarfile.LNKTYPE, linkname="SUN397/z/nowhere.jpg")
            add(archive, "SUN397/z/device.jpg", type=tarfile.CHRTYPE)
            add(archive, "SUN397/z/fifo.jpg", type=tarfile.FIFOTYPE)
            add(archive, "SUN397/b/beach/A.jpg", jpeg)


def packed(source: Path | str, out: Path, **settings: object) -> dict:
    config = PackConfig(source=source, out=out, **{"short_side": 64, "workers": 2, "shard_samples": 10, **settings})
    return pack(config)


def rejects(out: Path) -> dict[str, str]:
    with open(out / "rejects.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        return {path: reason for path, reason, _ in list(csv.reader(file))[1:]}


def digests(folder: Path) -> dict[str, str]:
    """Returns the hashes of the shards, not of the manifest, which names the source."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("photos-*"))}


@pytest.mark.parametrize("name", ["SUN397.tar", "SUN397.tar.gz", "SUN397.tar.bz2"])
def test_every_oddity_of_sun397_comes_to_its_end(sun397: dict, tmp_path: Path, name: str) -> None:
    modes = {"SUN397.tar": "w", "SUN397.tar.gz": "w:gz", "SUN397.tar.bz2": "w:bz2"}
    write_tar(tmp_path / name, sun397, modes[name])
    summary = packed(tmp_path / name, tmp_path / "out")
    shards = ShardSet.open(tmp_path / "out")
    samples = [shards.sample(i) for i in range(shards.num_samples)]
    expected = {path for path, (_, outcome) in sun397.items() if outcome == "packed"} | {"SUN397/b/hardlink.jpg"}
    assert {sample.path for sample in samples} == expected
    assert summary["dropped"] == {"grey": sum(outcome == "grey" for _, outcome in sun397.values())}
    bad = {path: outcome for path, (_, outcome) in sun397.items() if outcome not in ("packed", "grey")}
    assert rejects(tmp_path / "out") == bad | UNSAFE
    num_files = summary["num_packed"] + summary["num_dropped"] + summary["num_rejected"]
    assert num_files == summary["num_files"] == len(sun397) + len(UNSAFE) + 1
    classes = {sample.class_name for sample in samples}
    assert classes == {"abbey", "apartment_building/outdoor", "beach", "/".join(["long"] * 60), "SUN397/b"}
    assert {path.name for path in tmp_path.iterdir()} == {name, "out"}, "something was written beside"
    for sample in samples:
        assert Image.open(io.BytesIO(sample.read())).size == sample.size
        assert sample.key.isascii()
        assert len(sample.key) <= 80


def test_folder_tar_zip_and_stream_give_the_same_shards(sun397: dict, tmp_path: Path) -> None:
    files = {path: case for path, case in sun397.items() if "long/long" not in path}
    for path, (data, _) in files.items():
        (tmp_path / "folder" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / path).write_bytes(data)
    write_tar(tmp_path / "a.tar", files, "w", unsafe=False)
    write_tar(tmp_path / "a.tar.gz", files, "w:gz", unsafe=False)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path, (data, _) in files.items():
            archive.writestr(path, data)
    packed(tmp_path / "folder", tmp_path / "out")
    for name in ("a.tar", "a.tar.gz", "a.zip"):
        packed(tmp_path / name, tmp_path / f"{name}.out")
        assert digests(tmp_path / f"{name}.out") == digests(tmp_path / "out")
        assert (tmp_path / f"{name}.out" / "rejects.csv").read_bytes() == (tmp_path / "out/rejects.csv").read_bytes()


def test_a_folder_within_sun397_keeps_its_classes(coffee: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "SUN397/a/apartment_building/outdoor").mkdir(parents=True)
    coffee.save(tmp_path / "SUN397/a/apartment_building/outdoor/x.jpg")
    packed(tmp_path / "SUN397", tmp_path / "out")
    assert ShardSet.open(tmp_path / "out").manifest["classes"] == {"apartment_building/outdoor": 1}


def test_sun2012_and_its_annotations(coffee: Image.Image, tmp_path: Path) -> None:
    jpeg = encoded(coffee, "JPEG")
    with tarfile.open(tmp_path / "SUN2012.tar.gz", "w:gz") as archive:
        for name, data in {
            "SUN2012/Images/a/abbey/sun_a.jpg": jpeg,
            "SUN2012/Images/b/bakery/shop/sun_b.jpg": jpeg,
            "SUN2012/Images/misc/sun_c.jpg": jpeg,
            "SUN2012/Annotations/a/abbey/sun_a.xml": b"<annotation></annotation>",
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    packed(tmp_path / "SUN2012.tar.gz", tmp_path / "out")
    manifest = ShardSet.open(tmp_path / "out").manifest
    assert manifest["classes"] == {"SUN2012/Images/misc": 1, "abbey": 1, "bakery/shop": 1}
    assert rejects(tmp_path / "out") == {"SUN2012/Annotations/a/abbey/sun_a.xml": "not an image"}


@pytest.mark.parametrize("name", ["SUN397.tar", "SUN397.tar.gz"])
@pytest.mark.parametrize("as_zip", [True, False])
def test_sun397_s_partitions_make_two_sets(coffee: Image.Image, tmp_path: Path, name: str, as_zip: bool) -> None:
    jpeg = encoded(coffee, "JPEG")
    files = {f"SUN397/a/abbey/sun_{letter}.jpg": (jpeg, "packed") for letter in "abcde"}
    files["SUN397/b/beach/A.jpg"] = (jpeg, "packed")
    files["SUN397/b/bad/sun_f.jpg"] = (jpeg[:-99], "damaged JPEG")
    write_tar(tmp_path / name, files, "w:gz" if name.endswith("gz") else "w", unsafe=False)
    texts = {
        "Training_01.txt": "/a/abbey/sun_a.jpg\n/a/abbey/sun_b.jpg\n/b/bad/sun_f.jpg\n",
        "Testing_01.txt": "/a/abbey/sun_c.jpg\n/a/abbey/sun_lost.jpg\n",
        "Training_02.txt": "/a/abbey/sun_e.jpg\n",
        "Testing_02.txt": "/a/abbey/sun_e.jpg\n",
    }
    partitions = tmp_path / ("Partitions.zip" if as_zip else "Partitions")
    if as_zip:
        with zipfile.ZipFile(partitions, "w") as archive:
            for file, text in texts.items():
                archive.writestr(file, text)
    else:
        partitions.mkdir()
        for file, text in texts.items():
            (partitions / file).write_text(text)
    summary = packed(tmp_path / name, tmp_path / "out", partitions=partitions)
    assert summary["dropped"] == {"in no partition": 3}
    assert (summary["num_packed"], summary["num_rejected"], summary["num_missing"]) == (3, 1, 1)
    parts = {}
    for part in ("train", "test"):
        shards = ShardSet.open(tmp_path / "out" / part)
        parts[part] = {shards.sample(i).path for i in range(shards.num_samples)}
    assert parts["train"] == {"SUN397/a/abbey/sun_a.jpg", "SUN397/a/abbey/sun_b.jpg"}
    assert parts["test"] == {"SUN397/a/abbey/sun_c.jpg"}
    assert summary["num_shared"] == 1, "all have the same bytes"
    with pytest.raises(ValueError, match=r"/a/abbey/sun_e.jpg is both in Training_02.txt and in Testing_02.txt"):
        packed(tmp_path / name, tmp_path / "two", partitions=partitions, partition=2)
    with pytest.raises(ValueError, match=r"holds no Training_03.txt: SUN397's partitions are numbered 1 to 10"):
        packed(tmp_path / name, tmp_path / "three", partitions=partitions, partition=3)


def many(coffee: Image.Image, number: int) -> dict[str, tuple[bytes, Outcome]]:
    jpeg = encoded(coffee, "JPEG", quality=90)
    return {f"SUN397/b/beach/{name}.jpg": (jpeg, "packed") for name in ("A", *range(number))}


@pytest.mark.parametrize("moment", ["incoming", pytest.param("second shard", marks=pytest.mark.slow)])
def test_a_killed_pack_of_a_stream_ends_with_the_same_bytes(coffee: Image.Image, tmp_path: Path, moment: str) -> None:
    write_tar(tmp_path / "a.tar.gz", many(coffee, 150), "w:gz", unsafe=False)
    command = [sys.executable, "-m", "photochrom", "pack", str(tmp_path / "a.tar.gz"), str(tmp_path / "out")]
    command += ["--workers", "2", "--short-side", "64", "--shard-samples", "10"]
    reached: dict[str, Callable[[], bool]] = {
        "incoming": lambda: len(list((tmp_path / "out" / WORK).glob("all/spool/*"))) > 30,
        "second shard": lambda: (tmp_path / "out" / "photos-000001.tar").exists(),
    }
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not reached[moment]() and process.poll() is None:
        time.sleep(0.001)
    process.kill()
    process.wait()
    if moment == "incoming":  # a kill can tear a record
        bucket = max((tmp_path / "out" / WORK / "all" / "spool").iterdir(), key=lambda path: path.stat().st_size)
        os.truncate(bucket, bucket.stat().st_size - 100)
    packed(tmp_path / "a.tar.gz", tmp_path / "out")
    packed(tmp_path / "a.tar.gz", tmp_path / "calm")
    assert digests(tmp_path / "out") == digests(tmp_path / "calm")
    assert len(digests(tmp_path / "out")) == 32
    assert not (tmp_path / "out" / WORK).exists()


def headers(tar: Path) -> list[tarfile.TarInfo]:
    with tarfile.open(tar) as archive:
        return archive.getmembers()


@pytest.mark.parametrize("place", ["in a photograph", "in a header", "damaged header"])
@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_a_cut_or_damaged_archive_is_named_and_goes_on_when_it_is_whole(
    coffee: Image.Image, tmp_path: Path, place: str, name: str
) -> None:
    tar = tmp_path / "a.tar"
    write_tar(tar, many(coffee, 30), "w", unsafe=False)
    whole = tar.read_bytes()
    member = headers(tar)[20]
    bad = bytearray(whole)
    if place == "damaged header":
        bad[member.offset + 5] ^= 1
    else:
        del bad[member.offset_data + 1000 if place == "in a photograph" else member.offset + 100 :]
    pack_it = gzip.compress if name.endswith("gz") else bytes
    (tmp_path / name).write_bytes(pack_it(bad))
    with pytest.raises(ValueError, match=r"a.tar.* is incomplete or damaged, after [\d,]+ of [\d,]+ bytes"):
        packed(tmp_path / name, tmp_path / "out")
    assert not digests(tmp_path / "out")
    if name == "a.tar":  # it is listed before anything is done
        assert not (tmp_path / "out").exists()


def test_a_stream_cut_in_its_second_photograph_leaves_nothing(coffee: Image.Image, tmp_path: Path) -> None:
    tar = tmp_path / "a.tar"
    write_tar(tar, many(coffee, 2), "w", unsafe=False)
    second = headers(tar)[2]
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar.read_bytes()[: second.offset_data + 1000]))
    with pytest.raises(ValueError, match="is incomplete or damaged"):
        packed(tmp_path / "a.tar.gz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_download_is_packed_on_when_it_is_whole(coffee: Image.Image, tmp_path: Path) -> None:
    archive = tmp_path / "SUN397.tar.gz"
    write_tar(archive, many(coffee, 90), "w:gz", unsafe=False)
    data = archive.read_bytes()
    archive.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"SUN397.tar.gz is incomplete or damaged, after [\d,]+ of [\d,]+ bytes"):
        packed(archive, tmp_path / "out")
    assert list((tmp_path / "out" / WORK).glob("all/spool/*")), "what was read is kept"


def test_a_gzip_may_have_parts_and_its_checksum_is_checked(coffee: Image.Image, tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", many(coffee, 10), "w", unsafe=False)
    data = (tmp_path / "a.tar").read_bytes()
    place = headers(tmp_path / "a.tar")[5].offset
    (tmp_path / "a.tgz").write_bytes(gzip.compress(data[:place]) + gzip.compress(data[place:]))
    assert packed(tmp_path / "a.tgz", tmp_path / "out")["num_packed"] == 11
    wrong = bytearray(gzip.compress(data))
    wrong[-6] ^= 1
    (tmp_path / "a.tgz").write_bytes(wrong)
    with pytest.raises(ValueError, match=r"a.tgz is incomplete or damaged.*incorrect data check"):
        packed(tmp_path / "a.tgz", tmp_path / "other")


def test_a_split_stream_ends_with_the_same_sets(coffee: Image.Image, photos: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(photos, "photos")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(photos, "photos")
    for name in ("a.tar", "a.tar.gz"):
        packed(tmp_path / name, tmp_path / f"{name}.out", split=0.5)
    for part in ("train", "test"):
        assert digests(tmp_path / "a.tar.out" / part) == digests(tmp_path / "a.tar.gz.out" / part)


def test_what_is_no_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match=r"a.tar.gz is neither a folder nor an archive \(.tar, .tar.gz, .zip\)"):
        packed(tmp_path / "a.tar.gz", tmp_path / "out")
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    with pytest.raises(ValueError, match=r"empty.tar holds no files"):
        packed(tmp_path / "empty.tar", tmp_path / "out")
    with tarfile.open(tmp_path / "empty.tar.gz", "w:gz"):
        pass
    with pytest.raises(ValueError, match=r"empty.tar.gz holds no files, or none"):
        packed(tmp_path / "empty.tar.gz", tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "cut.zip", "w") as archive:
        archive.writestr("a.jpg", bytes(5000))
    data = (tmp_path / "cut.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(data[:-30])
    with pytest.raises(ValueError, match=r"the archive .*cut.zip is incomplete or damaged"):
        packed(tmp_path / "cut.zip", tmp_path / "out")
    (tmp_path / "cut.tar.gz").write_bytes((tmp_path / "empty.tar.gz").read_bytes()[:12])
    with pytest.raises(ValueError, match=r"the archive .*cut.tar.gz is incomplete or damaged"):
        packed(tmp_path / "cut.tar.gz", tmp_path / "out")
    with pytest.raises(ValueError, match=r"ftp://x/a.tar is not an http or https address"):
        packed("ftp://x/a.tar", tmp_path / "out")
    with pytest.raises(ValueError, match=r"the source has no name"):
        packed("", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_zip_members_that_are_not_to_be_read(coffee: Image.Image, tmp_path: Path) -> None:
    jpeg = encoded(coffee, "JPEG")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("good.jpg", jpeg)
        archive.writestr("../up.jpg", jpeg)
        link = zipfile.ZipInfo("link.jpg")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("bad.jpg", jpeg)
        archive.writestr("secret.jpg", jpeg)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    for start in (data.index(b"PK\x01\x02", data.rindex(b"secret.jpg") - 60), data.index(b"secret.jpg") - 30):
        data[start + (8 if data[start : start + 4] == b"PK\x01\x02" else 6)] |= 1  # the flag of encryption
    place = data.index(b"bad.jpg") + 500
    data[place] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(data)
    packed(tmp_path / "a.zip", tmp_path / "out")
    assert rejects(tmp_path / "out") == {
        "../up.jpg": "unsafe name",
        "link.jpg": "no regular file",
        "bad.jpg": "unreadable",
        "secret.jpg": "encrypted",
    }
    assert ShardSet.open(tmp_path / "out").num_samples == 1


def test_partitions_in_an_encrypted_zip_are_a_sentence(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "Partitions.zip", "w") as archive:
        archive.writestr("Training_01.txt", "/a/abbey/x.jpg")
    data = bytearray((tmp_path / "Partitions.zip").read_bytes())
    for flags in (6, data.rindex(b"PK\1\2") + 8):
        data[flags] |= 1
    (tmp_path / "Partitions.zip").write_bytes(data)
    with pytest.raises(ValueError, match=r"cannot be read as SUN397's partitions .*encrypted"):
        read_partition(tmp_path / "Partitions.zip", 1)
