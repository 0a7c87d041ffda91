import numpy as np
from photochrom.pipelines.imaging.encode import resize
from PIL import Image


def test_resizing_is_pillow_s_bicubic(coffee: Image.Image) -> None:
    expected = np.asarray(coffee.resize((150, 100), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(resize(np.array(coffee), (150, 100)) - expected).max() <= 2
