import io

import numpy as np
from photochrom.pipelines.imaging.encode import is_plain_jpeg, resize
from PIL import Image


def jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def test_resizing_is_pillow_s_bicubic(coffee: Image.Image) -> None:
    expected = np.asarray(coffee.resize((150, 100), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(resize(np.array(coffee), (150, 100)) - expected).max() <= 2


def test_only_what_every_decoder_reads_is_a_plain_jpeg(coffee: Image.Image) -> None:
    assert is_plain_jpeg(jpeg(coffee))
    assert is_plain_jpeg(jpeg(coffee, progressive=True))
    # A thumbnail in the header ends as the picture does.
    exif = Image.Exif()
    exif[0x010E] = "a thumbnail: " + "\xff\xd9"
    assert is_plain_jpeg(jpeg(coffee, exif=exif))
    assert not is_plain_jpeg(jpeg(coffee, keep_rgb=True))
    assert not is_plain_jpeg(jpeg(coffee).replace(b"\xff\xc0", b"\xff\xc9", 1)), "arithmetic coding"
    assert not is_plain_jpeg(jpeg(coffee)[:-2])


def test_bytes_behind_the_end_are_not_plain_even_if_they_end_alike(coffee: Image.Image) -> None:
    data = jpeg(coffee)
    for longer in (data + b"junk\xff\xd9", data + data):
        assert not is_plain_jpeg(longer)
