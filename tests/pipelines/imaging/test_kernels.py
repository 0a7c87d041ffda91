import numpy as np
import pytest
import torch
from photochrom.pipelines import rgb_to_lab
from photochrom.pipelines.imaging.color import lab_uint8_to_lab
from photochrom.pipelines.imaging.kernels import lab_uint8_crop_to_lab, rgb_crop_to_lab
from skimage.color import rgb2lab

# Every red and green beside 4 blues, dark ones among them, and every grey: 1024 x 257.
REDS, GREENS = np.meshgrid(np.arange(256), np.arange(256))
COLOURS = np.concatenate([np.stack([REDS, GREENS, np.full_like(REDS, blue)], axis=2) for blue in (0, 7, 128, 255)])
GREYS = np.repeat(np.arange(1024)[:, None, None] // 4, 3, axis=2)
RGB = np.concatenate([COLOURS, GREYS], axis=1).astype(np.uint8)


def lab(kernel, pixels: np.ndarray, top: int, left: int, shape: tuple[int, int], mirrored: bool):  # type: ignore[no-untyped-def]
    L, ab = np.empty(shape, np.float32), np.empty((2, *shape), np.float32)
    kernel(pixels, top, left, mirrored, L, ab)
    return L, ab


@pytest.mark.parametrize("mirrored", [False, True])
def test_lab_agrees_with_skimage_and_kornia(mirrored: bool) -> None:
    L, ab = lab(rgb_crop_to_lab, RGB, 0, 0, RGB.shape[:2], mirrored)
    rgb = np.ascontiguousarray(RGB[:, ::-1] if mirrored else RGB)
    expected = rgb2lab(rgb)
    assert np.abs(L - expected[..., 0]).max() < 1e-3
    assert np.abs(ab - expected[..., 1:].transpose(2, 0, 1)).max() < 1e-3
    kornia_L, kornia_ab = rgb_to_lab(torch.from_numpy(rgb)[None])
    assert np.abs(L - kornia_L[0, 0].numpy()).max() < 1e-3
    assert np.abs(ab - kornia_ab[0].numpy()).max() < 2e-3  # Kornia is itself up to 1e-3 from scikit-image


def test_black_and_white_are_exact() -> None:
    ends = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    L, _ = lab(rgb_crop_to_lab, ends, 0, 0, (1, 2), False)
    assert L[0, 0] == 0
    assert L[0, 1] == pytest.approx(100, abs=1e-5)


@pytest.mark.parametrize("kernel", [rgb_crop_to_lab, lab_uint8_crop_to_lab])
@pytest.mark.parametrize("size", [1, 7, 64])
def test_a_window_is_that_part_of_the_whole(kernel, size: int) -> None:  # type: ignore[no-untyped-def]
    pixels = RGB if kernel is rgb_crop_to_lab else np.ascontiguousarray(RGB.transpose(2, 0, 1))
    pixels.flags.writeable = False  # as memory maps are
    whole_L, whole_ab = lab(kernel, pixels, 0, 0, RGB.shape[:2], False)
    for mirrored in (False, True):
        L, ab = lab(kernel, pixels, 30, 11, (size, size), mirrored)
        step = -1 if mirrored else 1
        # Not equal: rows of other lengths are computed in vectors of other lengths.
        np.testing.assert_allclose(L[:, ::step], whole_L[30 : 30 + size, 11 : 11 + size], atol=1e-4)
        np.testing.assert_allclose(ab[:, :, ::step], whole_ab[:, 30 : 30 + size, 11 : 11 + size], atol=2e-4)


def test_lab_in_bytes_is_converted_as_on_a_device(tolerances: dict[torch.dtype, dict[str, float]]) -> None:
    codes = np.ascontiguousarray(RGB.transpose(2, 0, 1))
    L, ab = lab(lab_uint8_crop_to_lab, codes, 0, 0, RGB.shape[:2], False)
    expected_L, expected_ab = lab_uint8_to_lab(torch.from_numpy(codes)[None])
    np.testing.assert_allclose(L, expected_L[0, 0].numpy(), **tolerances[torch.float32])
    assert np.array_equal(ab, expected_ab[0].numpy())
    assert L.max() == 100
    assert ab.min() == -128
