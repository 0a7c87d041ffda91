import numpy as np
from photochrom.pipelines.imaging.statistics import count_ab, is_grey, sample_ab
from PIL import Image
from skimage.color import rgb2lab


def test_nearly_grey_pictures_are_grey(coffee: Image.Image) -> None:
    grey = np.asarray(coffee.convert("L")).astype(int)[..., None]
    for tinge, expected in (([2, 0, -2], True), ([20, 0, -20], False)):
        tinted = (grey + tinge).clip(0, 255).astype(np.uint8)
        ab = rgb2lab(tinted)[::4, ::4, 1:]
        assert (np.abs(ab).max() <= 5) == expected
        assert is_grey(sample_ab(tinted)) == expected


def test_colours_are_counted_on_every_fourth_pixel(coffee: Image.Image) -> None:
    codes, number = count_ab(sample_ab(np.asarray(coffee)))
    expected = np.zeros((256, 256))
    for a, b in rgb2lab(np.asarray(coffee))[::4, ::4, 1:].reshape(-1, 2):
        expected[round(a) + 128, round(b) + 128] += 1
    counts = np.zeros((256, 256))
    counts[codes // 256, codes % 256] = number
    assert (counts == expected).all()
