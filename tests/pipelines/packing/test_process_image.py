"""The gate, on files as people have them. What each should become is said by Pillow, read with the utmost care."""

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
from photochrom.pipelines.packing.process_image import (
    MAX_PIXELS,
    Photograph,
    Rejected,
    _is_plain_jpeg,
    decode,
    make_photograph,
    read_file,
)
from PIL import Image, ImageCms
from skimage.color import rgb2lab


@pytest.fixture(scope="module")
def coffee(photos: Path) -> Image.Image:
    return Image.open(photos / "coffee.png").convert("RGB")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def stored(data: bytes, short_side: int | None = None) -> Photograph:
    return make_photograph(data, short_side=short_side, quality=95)


def pixels_of(photograph: Photograph) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(photograph.stored)).convert("RGB")).astype(int)


def test_a_sound_jpeg_keeps_its_bytes(coffee: Image.Image) -> None:
    data = encoded(coffee, "JPEG", quality=80)
    photograph = stored(data, short_side=400)
    assert photograph.stored == data
    assert photograph.done == ()
    assert photograph.size == photograph.original_size == (600, 400)


def test_resizing_is_pillow_s_bicubic(coffee: Image.Image) -> None:
    photograph = stored(encoded(coffee, "PNG"), short_side=100)
    assert photograph.size == (150, 100)
    assert photograph.original_size == (600, 400)
    assert photograph.done == ("from PNG", "resized", "encoded")
    expected = np.asarray(coffee.resize((150, 100), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(pixels_of(photograph) - expected).mean() < 3
    sampling = [layer[1:3] for layer in Image.open(io.BytesIO(photograph.stored)).layer]
    assert sampling == [(1, 1), (1, 1), (1, 1)], "the chroma is subsampled"


def test_small_photographs_are_not_enlarged(coffee: Image.Image) -> None:
    assert stored(encoded(coffee.resize((90, 60)), "PNG"), short_side=288).size == (90, 60)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000"])
def test_other_formats_become_jpeg_whatever_their_name(coffee: Image.Image, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(coffee, kind, **options)
    photograph = stored(data)
    assert photograph.done[0] == f"from {kind}"
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(pixels_of(photograph) - expected).mean() < 3


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
    image, done = decode(encoded(turned, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {})))
    assert image.size == coffee.size
    assert np.abs(np.asarray(image).astype(int) - np.asarray(coffee)).mean() < 4
    assert ("turned upright" in done) == (orientation > 1)
    assert Image.open(io.BytesIO(stored(encoded(turned, kind, exif=exif)).stored)).getexif().get(0x0112, 1) == 1


def test_sixteen_bit_grey_is_scaled_not_clipped(coffee: Image.Image) -> None:
    grey = np.asarray(coffee.convert("L"))
    image, done = decode(encoded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"))
    assert "from 16 bit" in done
    assert (np.asarray(image) == grey[..., None]).all()


def test_transparency_is_laid_on_white(coffee: Image.Image) -> None:
    layer = coffee.copy()
    layer.putalpha(Image.new("L", coffee.size, 0))
    image, done = decode(encoded(layer, "PNG"))
    assert "laid on white" in done
    assert (np.asarray(image) == 255).all()


def test_palette_with_a_transparent_colour(coffee: Image.Image) -> None:
    palette = Image.new("P", (64, 64), 1)
    palette.putpalette([0, 0, 0, 200, 30, 30])
    image, _ = decode(encoded(palette, "PNG", transparency=1))
    assert (np.asarray(image) == 255).all()


def test_cmyk_jpeg_keeps_its_hue(coffee: Image.Image) -> None:
    data = encoded(coffee.convert("CMYK"), "JPEG", quality=95)
    image, done = decode(data)
    assert "from CMYK" in done
    assert np.abs(np.asarray(image).astype(int) - np.asarray(coffee)).mean() < 6


def test_of_animations_the_first_frame(coffee: Image.Image) -> None:
    data = encoded(coffee, "GIF", save_all=True, append_images=[Image.new("RGB", coffee.size, "red")])
    image, _ = decode(data)
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
        stored(damage(jpeg(coffee)))
    assert caught.value.reason == reason


def test_junk_behind_the_picture_is_dropped(coffee: Image.Image) -> None:
    photograph = stored(jpeg(coffee) + b"PK\x03\x04 a zip archive")
    assert photograph.done == ("encoded",)
    assert photograph.stored.endswith(b"\xff\xd9")


@pytest.mark.parametrize("size", [(1, 1), (31, 500), (500, 31)])
def test_tiny_pictures_are_rejected(size: tuple[int, int]) -> None:
    with pytest.raises(Rejected, match=f"too small: {size[0]}x{size[1]}"):
        stored(encoded(Image.new("RGB", size, "red"), "PNG"))


def test_bombs_are_refused_by_their_header() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(Rejected, match="too many pixels"):
        stored(bomb)
    assert MAX_PIXELS < 100_000**2


def test_grey_pictures_are_marked(coffee: Image.Image) -> None:
    assert stored(encoded(coffee.convert("L"), "JPEG")).is_grey
    assert stored(encoded(coffee.convert("L").convert("RGB"), "PNG")).is_grey
    assert not stored(jpeg(coffee)).is_grey


def test_nearly_grey_pictures_are_marked(coffee: Image.Image) -> None:
    grey = np.asarray(coffee.convert("L")).astype(int)[..., None]
    for tinge, is_grey in (([2, 0, -2], True), ([20, 0, -20], False)):
        tinted = Image.fromarray((grey + tinge).clip(0, 255).astype(np.uint8))
        ab = rgb2lab(np.asarray(tinted))[::4, ::4, 1:]
        assert (np.abs(ab).max() <= 5) == is_grey
        assert stored(encoded(tinted, "PNG")).is_grey == is_grey


def test_colours_are_counted_on_every_fourth_pixel(coffee: Image.Image) -> None:
    photograph = stored(encoded(coffee, "PNG"))
    counts = np.zeros((256, 256))
    for a, b in rgb2lab(np.asarray(coffee))[::4, ::4, 1:].reshape(-1, 2):
        counts[round(a) + 128, round(b) + 128] += 1
    found = np.zeros((256, 256))
    found[photograph.ab_cells // 256, photograph.ab_cells % 256] = photograph.ab_counts
    assert (found == counts).all()


@pytest.mark.parametrize("orientation", [1, 6])
def test_large_jpegs_are_decoded_at_a_smaller_scale(coffee: Image.Image, orientation: int) -> None:
    large = coffee.resize((1500, 1000), Image.Resampling.LANCZOS)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(large, "JPEG", quality=95, exif=exif)
    photograph = make_photograph(data, short_side=200, quality=100)
    upright = large if orientation == 1 else large.transpose(Image.Transpose.ROTATE_270)
    size = (300, 200) if orientation == 1 else (200, 300)
    assert photograph.size == size
    assert photograph.original_size == upright.size
    assert "resized" in photograph.done
    full = rgb2lab(np.asarray(upright.resize(size, Image.Resampling.BICUBIC)))
    assert np.sqrt(((rgb2lab(pixels_of(photograph) / 255) - full)[..., 1:] ** 2).mean()) < 1


def test_a_smaller_scale_hides_no_damage(coffee: Image.Image) -> None:
    data = encoded(coffee.resize((1500, 1000)), "JPEG", quality=95)
    for damaged in (data[: len(data) * 99 // 100], data[:-10], data[:90000] + bytes(4096) + data[94096:]):
        with pytest.raises(Rejected, match="damaged JPEG"):
            stored(damaged, short_side=200)


def test_a_scale_that_leaves_nothing_to_resize(coffee: Image.Image) -> None:
    data = encoded(coffee, "JPEG")
    photograph = stored(data, short_side=399)
    assert photograph.done == ("resized", "encoded")
    assert photograph.size == (598, 399)


def test_chroma_can_be_subsampled(coffee: Image.Image) -> None:
    photograph = make_photograph(encoded(coffee, "PNG"), short_side=None, quality=90, subsampling="420")
    sampling = [layer[1:3] for layer in Image.open(io.BytesIO(photograph.stored)).layer]
    assert sampling == [(2, 2), (1, 1), (1, 1)]


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
    as_it_is, done = decode(encoded(coffee, kind, icc_profile=plain, **options))
    assert "brought to sRGB" not in done
    converted, done = decode(encoded(coffee, kind, icc_profile=exchanged, **options))
    assert "brought to sRGB" in done
    expected = np.asarray(as_it_is).astype(int)[..., [1, 0, 2]]
    assert np.abs(np.asarray(converted).astype(int) - expected).max() <= 2


def test_profiles_of_palettes_and_transparent_pictures(coffee: Image.Image) -> None:
    _, exchanged = exchanged_profile()
    palette = coffee.quantize(64)
    converted, done = decode(encoded(palette, "PNG", icc_profile=exchanged))
    assert done == ("from PNG", "from P", "brought to sRGB")
    expected = np.asarray(palette.convert("RGB")).astype(int)[..., [1, 0, 2]]
    assert np.abs(np.asarray(converted).astype(int) - expected).max() <= 2
    layer = coffee.copy()
    layer.putalpha(Image.new("L", coffee.size, 128))
    converted, done = decode(encoded(layer, "PNG", icc_profile=exchanged))
    assert done == ("from PNG", "laid on white", "brought to sRGB")
    expected = (np.asarray(coffee).astype(int)[..., [1, 0, 2]] * 128 + 255 * 127) / 255
    assert np.abs(np.asarray(converted).astype(int) - expected).max() <= 3
    keyed = encoded(coffee, "PNG", icc_profile=exchanged, transparency=coffee.getpixel((0, 0)))
    converted, done = decode(keyed)
    assert "laid on white" in done
    assert converted.getpixel((0, 0)) == pytest.approx((255, 255, 255), abs=2)


def test_a_profile_that_is_none_changes_nothing(coffee: Image.Image) -> None:
    picture, done = decode(encoded(coffee, "PNG", icc_profile=b"nonsense"))
    assert np.array_equal(np.asarray(picture), np.asarray(coffee))
    assert "brought to sRGB" not in done


def test_a_rejection_travels_between_processes() -> None:
    again = pickle.loads(pickle.dumps(Rejected("too small", "1x1")))
    assert (again.reason, again.detail, str(again)) == ("too small", "1x1", "too small: 1x1")


def test_what_is_behind_the_end_is_not_stored_even_if_it_ends_alike(coffee: Image.Image) -> None:
    data = jpeg(coffee)
    assert stored(data).stored == data
    for longer in (data + b"junk\xff\xd9", data + data):
        assert stored(longer).done == ("encoded",)


def test_only_what_every_decoder_reads_keeps_its_bytes(coffee: Image.Image) -> None:
    assert stored(encoded(coffee, "JPEG", keep_rgb=True)).done == ("encoded",)
    progressive = encoded(coffee, "JPEG", progressive=True)
    assert stored(progressive).stored == progressive
    # A thumbnail in the header ends as the picture does.
    exif = Image.Exif()
    exif[0x010E] = "a thumbnail: " + "\xff\xd9"
    with_thumbnail = encoded(coffee, "JPEG", exif=exif)
    assert stored(with_thumbnail).stored == with_thumbnail
    assert _is_plain_jpeg(jpeg(coffee))
    assert not _is_plain_jpeg(jpeg(coffee).replace(b"\xff\xc0", b"\xff\xc9", 1)), "arithmetic coding"


def test_unusual_sampling_is_decoded_by_pillow(coffee: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise ValueError("Could not determine subsampling level")

    monkeypatch.setattr(simplejpeg, "decode_jpeg", refuse)
    data = jpeg(coffee)
    assert stored(data).done == ("unusual sampling", "encoded")
    with pytest.raises(Rejected, match="damaged"):
        stored(data[:-2000])


def tiff(samples: np.ndarray, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **settings)
    return buffer.getvalue()


def test_grey_tiffs_whose_white_is_0() -> None:
    grey = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    right, _ = decode(tiff(grey, photometric="minisblack"))
    turned, _ = decode(tiff(65535 - grey, photometric="miniswhite"))
    assert np.array_equal(np.asarray(turned), np.asarray(right))
    assert np.abs(np.asarray(right)[..., 0] - grey / 257).max() <= 0.5


def test_deep_tiffs_in_planes_are_refused() -> None:
    """Pillow makes noise of them, in silence."""
    planes = np.random.default_rng(0).integers(0, 65536, (3, 64, 64)).astype(np.uint16)
    with pytest.raises(Rejected, match="more than 8 bit in separate planes"):
        decode(tiff(planes, photometric="rgb", planarconfig="separate"))
    shallow = (planes >> 8).astype(np.uint8)
    picture, _ = decode(tiff(shallow, photometric="rgb", planarconfig="separate"))
    assert np.array_equal(np.asarray(picture), shallow.transpose(1, 2, 0))
