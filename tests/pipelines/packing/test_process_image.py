"""One file through process_image: what is stored of it, and how."""

import io

import numpy as np
import pytest
from photochrom.pipelines.imaging.decode import Rejected
from photochrom.pipelines.imaging.encode import EncodingSettings
from photochrom.pipelines.packing.members import LocalFile, SourceFile
from photochrom.pipelines.packing.process_image import EncodedImage, encode_image, process_image
from PIL import Image
from skimage.color import rgb2lab


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(image: Image.Image) -> bytes:
    return encoded(image, "JPEG", quality=90)


def stored(data: bytes, short_side: int | None = None) -> EncodedImage:
    return encode_image(data, EncodingSettings(short_side=short_side))


def pixels_of(photograph: EncodedImage) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(photograph.data)).convert("RGB")).astype(int)


def test_a_sound_jpeg_keeps_its_bytes(coffee: Image.Image) -> None:
    data = encoded(coffee, "JPEG", quality=80)
    photograph = stored(data, short_side=400)
    assert photograph.data == data
    assert photograph.changes == ()
    assert photograph.size == photograph.original_size == (600, 400)


def test_small_photographs_are_not_enlarged(coffee: Image.Image) -> None:
    assert stored(encoded(coffee.resize((90, 60)), "PNG"), short_side=288).size == (90, 60)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000"])
def test_other_formats_become_jpeg_whatever_their_name(coffee: Image.Image, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(coffee, kind, **options)
    photograph = stored(data)
    assert photograph.changes[0] == f"from {kind}"
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(pixels_of(photograph) - expected).mean() < 3


def test_junk_behind_the_picture_is_dropped(coffee: Image.Image) -> None:
    photograph = stored(jpeg(coffee) + b"PK\x03\x04 a zip archive")
    assert photograph.changes == ("encoded",)
    assert photograph.data.endswith(b"\xff\xd9")


def test_grey_pictures_are_marked(coffee: Image.Image) -> None:
    assert stored(encoded(coffee.convert("L"), "JPEG")).is_grey
    assert stored(encoded(coffee.convert("L").convert("RGB"), "PNG")).is_grey
    assert not stored(jpeg(coffee)).is_grey


@pytest.mark.parametrize("orientation", [1, 6])
def test_large_jpegs_are_decoded_at_a_smaller_scale(coffee: Image.Image, orientation: int) -> None:
    large = coffee.resize((1500, 1000), Image.Resampling.LANCZOS)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(large, "JPEG", quality=95, exif=exif)
    photograph = encode_image(data, EncodingSettings(short_side=200, quality=100))
    upright = large if orientation == 1 else large.transpose(Image.Transpose.ROTATE_270)
    size = (300, 200) if orientation == 1 else (200, 300)
    assert photograph.size == size
    assert photograph.original_size == upright.size
    assert "resized" in photograph.changes
    full = rgb2lab(np.asarray(upright.resize(size, Image.Resampling.BICUBIC)))
    assert np.sqrt(((rgb2lab(pixels_of(photograph) / 255) - full)[..., 1:] ** 2).mean()) < 1


def test_a_scale_that_leaves_nothing_to_resize(coffee: Image.Image) -> None:
    data = encoded(coffee, "JPEG")
    photograph = stored(data, short_side=399)
    assert photograph.changes == ("resized", "encoded")
    assert photograph.size == (598, 399)


def test_what_is_behind_the_end_is_not_stored_even_if_it_ends_alike(coffee: Image.Image) -> None:
    data = jpeg(coffee)
    assert stored(data).data == data
    for longer in (data + b"junk\xff\xd9", data + data):
        assert stored(longer).changes == ("encoded",)


def test_a_turned_photograph_is_stored_upright_without_its_tag(coffee: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG"):
        photograph = stored(encoded(coffee, kind, exif=exif))
        assert photograph.size == (400, 600)
        assert photograph.changes[-2:] == ("turned upright", "encoded")
        assert Image.open(io.BytesIO(photograph.data)).getexif().get(0x0112, 1) == 1


def test_unforeseen_errors_reject_one_file() -> None:
    file = SourceFile(path="x", class_name="", content=LocalFile("no path at all\0"))
    failed = process_image(file, settings=EncodingSettings(), seed=0)
    assert isinstance(failed.result, Rejected)
    assert failed.result.reason == "failed"


def test_a_resized_photograph_keeps_its_chroma(coffee: Image.Image) -> None:
    photograph = stored(encoded(coffee, "PNG"), short_side=100)
    assert photograph.size == (150, 100)
    assert photograph.original_size == (600, 400)
    assert photograph.changes == ("from PNG", "resized", "encoded")
    expected = np.asarray(coffee.resize((150, 100), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(pixels_of(photograph) - expected).mean() < 3
    assert sampling(photograph) == [(1, 1), (1, 1), (1, 1)]


def test_chroma_can_be_subsampled(coffee: Image.Image) -> None:
    photograph = encode_image(encoded(coffee, "PNG"), EncodingSettings(quality=90, subsampling="420"))
    assert sampling(photograph) == [(2, 2), (1, 1), (1, 1)]


def sampling(photograph: EncodedImage) -> list[tuple[int, int]]:
    return [layer[1:3] for layer in Image.open(io.BytesIO(photograph.data)).layer]
