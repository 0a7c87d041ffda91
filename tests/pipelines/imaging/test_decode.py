"""Decoding of files as people have them. Pillow, used with care, says what each should become."""

import io
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import tifffile
from photochrom.pipelines.imaging.decode import MAX_PIXELS, Rejected, decode, read_file
from PIL import Image, ImageCms


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_orientation_is_applied_once(coffee: Image.Image, orientation: int, kind: str) -> None:
    # What the camera saw is `coffee`; the file holds it turned, and a tag that says how to turn it back.
    turned_by = {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}
    turned = coffee
    for method in turned_by.get(orientation, []):
        turned = turned.transpose(Image.Transpose(method))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image, _, changes = decode(encoded(turned, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {})))
    assert image.shape[:2] == coffee.size[::-1]
    assert np.abs(np.asarray(image).astype(int) - np.asarray(coffee)).mean() < 4
    assert ("turned upright" in changes) == (orientation > 1)


def test_sixteen_bit_grey_is_scaled_not_clipped(coffee: Image.Image) -> None:
    grey = np.asarray(coffee.convert("L"))
    image, _, changes = decode(encoded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"))
    assert "from 16 bit" in changes
    assert (np.asarray(image) == grey[..., None]).all()


def test_transparency_is_laid_on_white(coffee: Image.Image) -> None:
    layer = coffee.copy()
    layer.putalpha(Image.new("L", coffee.size, 0))
    image, _, changes = decode(encoded(layer, "PNG"))
    assert "laid on white" in changes
    assert (np.asarray(image) == 255).all()


def test_palette_with_a_transparent_colour(coffee: Image.Image) -> None:
    palette = Image.new("P", (64, 64), 1)
    palette.putpalette([0, 0, 0, 200, 30, 30])
    image, *_ = decode(encoded(palette, "PNG", transparency=1))
    assert (np.asarray(image) == 255).all()


def test_cmyk_jpeg_keeps_its_hue(coffee: Image.Image) -> None:
    data = encoded(coffee.convert("CMYK"), "JPEG", quality=95)
    image, _, changes = decode(data)
    assert "from CMYK" in changes
    assert np.abs(np.asarray(image).astype(int) - np.asarray(coffee)).mean() < 6


def test_of_animations_the_first_frame(coffee: Image.Image) -> None:
    data = encoded(coffee, "GIF", save_all=True, append_images=[Image.new("RGB", coffee.size, "red")])
    image, *_ = decode(data)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(coffee)).mean() < 10


def jpeg(coffee: Image.Image) -> bytes:
    return encoded(coffee, "JPEG", quality=90)


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "empty file"),
    "one byte": (lambda data: b"\xff", "not an image"),
    "a page named .jpg": (lambda data: b"<html><body>404</body></html>", "not an image"),
    "only the first marker": (lambda data: data[:2], "not an image"),
    "cut at a half": (lambda data: data[: len(data) // 2], "damaged JPEG"),
    "cut at 99 %": (lambda data: data[: len(data) * 99 // 100], "damaged JPEG"),
    "last ten bytes gone": (lambda data: data[:-10], "damaged JPEG"),
    "no end marker": (lambda data: data[:-2], "damaged JPEG"),
    "4 KB zeroed in mid scan": (lambda data: data[:20000] + bytes(4096) + data[24096:], "damaged JPEG"),
    "junk before the picture": (lambda data: b"junk" + data, "not an image"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_rejected_with_a_reason(coffee: Image.Image, case: str) -> None:
    damage, reason = BROKEN[case]
    with pytest.raises(Rejected) as caught:
        decode(damage(jpeg(coffee)))
    assert caught.value.reason == reason


@pytest.mark.parametrize("size", [(1, 1), (31, 500), (500, 31)])
def test_tiny_pictures_are_rejected(size: tuple[int, int]) -> None:
    with pytest.raises(Rejected, match=f"too small: {size[0]}x{size[1]}"):
        decode(encoded(Image.new("RGB", size, "red"), "PNG"))


def test_bombs_are_refused_by_their_header() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(Rejected, match="too many pixels"):
        decode(bomb)
    assert MAX_PIXELS < 100_000**2


def test_a_smaller_scale_hides_no_damage(coffee: Image.Image) -> None:
    data = encoded(coffee.resize((1500, 1000)), "JPEG", quality=95)
    for damaged in (data[: len(data) * 99 // 100], data[:-10], data[:90000] + bytes(4096) + data[94096:]):
        with pytest.raises(Rejected, match="damaged JPEG"):
            decode(damaged, short_side=200)


def test_unreadable_files_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="no regular file"):
        read_file(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")  # to read it would wait for a writer, for ever
    with pytest.raises(Rejected, match="no regular file"):
        read_file(tmp_path / "pipe.jpg")
    with pytest.raises(Rejected, match="unreadable: No such file or directory"):
        read_file(tmp_path / "nothing.jpg")


def test_formats_that_start_programs_are_no_images(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="not an image"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n")


def exchanged_profile() -> tuple[bytes, bytes]:
    """sRGB's profile, and the same with red and green exchanged: a picture in it has sRGB's colours the other way."""
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exchanged = bytearray(plain)
    tags = {plain[i : i + 4]: i for i in range(132, 132 + 12 * int.from_bytes(plain[128:132], "big"), 12)}
    red, green = (slice(tags[tag] + 4, tags[tag] + 12) for tag in (b"rXYZ", b"gXYZ"))
    exchanged[red], exchanged[green] = plain[green], plain[red]
    return plain, bytes(exchanged)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_colours_are_brought_to_srgb_by_the_embedded_profile(coffee: Image.Image, kind: str) -> None:
    plain, exchanged = exchanged_profile()
    options = {"quality": 98, "subsampling": 0} if kind == "JPEG" else {}
    as_it_is, _, changes = decode(encoded(coffee, kind, icc_profile=plain, **options))
    assert "brought to sRGB" not in changes
    converted, _, changes = decode(encoded(coffee, kind, icc_profile=exchanged, **options))
    assert "brought to sRGB" in changes
    expected = np.asarray(as_it_is).astype(int)[..., [1, 0, 2]]
    assert np.abs(np.asarray(converted).astype(int) - expected).max() <= 2


def test_profiles_of_palettes_and_transparent_pictures(coffee: Image.Image) -> None:
    _, exchanged = exchanged_profile()
    palette = coffee.quantize(64)
    converted, _, changes = decode(encoded(palette, "PNG", icc_profile=exchanged))
    assert changes == ("from PNG", "from P", "brought to sRGB")
    expected = np.asarray(palette.convert("RGB")).astype(int)[..., [1, 0, 2]]
    assert np.abs(np.asarray(converted).astype(int) - expected).max() <= 2
    layer = coffee.copy()
    layer.putalpha(Image.new("L", coffee.size, 128))
    converted, _, changes = decode(encoded(layer, "PNG", icc_profile=exchanged))
    assert changes == ("from PNG", "laid on white", "brought to sRGB")
    expected = (np.asarray(coffee).astype(int)[..., [1, 0, 2]] * 128 + 255 * 127) / 255
    assert np.abs(np.asarray(converted).astype(int) - expected).max() <= 3
    keyed = encoded(coffee, "PNG", icc_profile=exchanged, transparency=coffee.getpixel((0, 0)))
    converted, _, changes = decode(keyed)
    assert "laid on white" in changes
    assert converted[0, 0].tolist() == pytest.approx([255, 255, 255], abs=2)


def test_a_profile_that_is_none_changes_nothing(coffee: Image.Image) -> None:
    picture, _, changes = decode(encoded(coffee, "PNG", icc_profile=b"nonsense"))
    assert np.array_equal(np.asarray(picture), np.asarray(coffee))
    assert "brought to sRGB" not in changes


def test_a_rejection_travels_between_processes() -> None:
    again = pickle.loads(pickle.dumps(Rejected("too small", "1x1")))
    assert (again.reason, again.detail, str(again)) == ("too small", "1x1", "too small: 1x1")


def test_unusual_sampling_is_decoded_by_pillow(coffee: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise ValueError("Could not determine subsampling level")

    monkeypatch.setattr(simplejpeg, "decode_jpeg", refuse)
    data = jpeg(coffee)
    assert decode(data).changes == ("unusual sampling",)
    with pytest.raises(Rejected, match="damaged"):
        decode(data[:-2000])


def tiff(samples: np.ndarray, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **settings)
    return buffer.getvalue()


def test_grey_tiffs_whose_white_is_0() -> None:
    grey = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    right, *_ = decode(tiff(grey, photometric="minisblack"))
    turned, *_ = decode(tiff(65535 - grey, photometric="miniswhite"))
    assert np.array_equal(np.asarray(turned), np.asarray(right))
    assert np.abs(np.asarray(right)[..., 0] - grey / 257).max() <= 0.5


def test_deep_tiffs_in_planes_are_refused() -> None:
    """Pillow makes noise of them, in silence."""
    planes = np.random.default_rng(0).integers(0, 65536, (3, 64, 64)).astype(np.uint16)
    with pytest.raises(Rejected, match="more than 8 bit in separate planes"):
        decode(tiff(planes, photometric="rgb", planarconfig="separate"))
    shallow = (planes >> 8).astype(np.uint8)
    picture, *_ = decode(tiff(shallow, photometric="rgb", planarconfig="separate"))
    assert np.array_equal(np.asarray(picture), shallow.transpose(1, 2, 0))


def test_tiffs_that_pillow_cannot_decode_are_rejected() -> None:
    colors = np.zeros((64, 64, 3), np.float32)
    with pytest.raises(Rejected, match="unsupported pixels: a TIFF whose samples Pillow cannot read"):
        decode(tiff(colors, photometric="rgb"))
    with pytest.raises(Rejected, match="not an image"):
        decode(tiff(colors, photometric="rgb")[:20])
