from pathlib import Path

import kornia
import numpy as np
import pytest
import torch
from photochrom.pipelines.imaging.color import lab_to_gamut, lab_to_rgb, rgb_to_lab
from photochrom.pipelines.imaging.kornia_constants import kornia_constants
from PIL import Image
from skimage.color import lab2rgb, rgb2lab


@pytest.fixture(scope="module")
def pixels(photos: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(photos / "coffee.png").convert("RGB")))[None]


@pytest.mark.parametrize("as_float", [False, True])
def test_lab_agrees_with_skimage(pixels: torch.Tensor, as_float: bool, device: torch.device) -> None:
    rgb = pixels.permute(0, 3, 1, 2).double() / 255 if as_float else pixels
    L, ab = rgb_to_lab(rgb.to(device))
    assert L.dtype == ab.dtype == torch.float32
    lab = torch.cat([L, ab], dim=1)[0].permute(1, 2, 0).cpu().numpy()
    assert np.abs(lab - rgb2lab(pixels[0].numpy())).max() < 1e-3


def test_lab_stays_float32_under_autocast(pixels: torch.Tensor, device: torch.device) -> None:
    with torch.autocast(device.type, dtype=torch.bfloat16):
        L, ab = rgb_to_lab(pixels.to(device))
        rgb = lab_to_rgb(L, ab)
    assert L.dtype == ab.dtype == rgb.dtype == torch.float32
    assert (rgb[0].permute(1, 2, 0).cpu() * 255 - pixels[0]).abs().max() < 0.1


def test_rgb_agrees_with_skimage_and_is_clipped() -> None:
    generator = np.random.default_rng(0)
    lab = np.stack([generator.uniform(0, 100, (32, 32)), *generator.uniform(-110, 110, (2, 32, 32))])
    rgb = lab_to_rgb(torch.from_numpy(lab[None, :1]), torch.from_numpy(lab[None, 1:]))
    with pytest.warns(UserWarning, match="negative Z values"):
        expected = lab2rgb(lab.transpose(1, 2, 0))
    assert np.abs(rgb[0].permute(1, 2, 0).numpy() - expected).max() < 1e-3
    assert rgb.min() == 0
    assert rgb.max() == 1


def test_fitting_into_the_gamut_keeps_lightness_and_hue() -> None:
    generator = torch.Generator().manual_seed(0)
    L = 100 * torch.rand(2, 1, 32, 32, generator=generator)
    ab = 220 * torch.rand(2, 2, 32, 32, generator=generator) - 110
    rgb, share = lab_to_gamut(L, ab)
    assert 0.5 < share < 1
    fitted_L, fitted_ab = rgb_to_lab(rgb)
    assert (fitted_L - L).abs().max() < 0.2
    assert (lab_to_rgb(L, ab) - rgb).abs().max() > 0.1, "clipping has the same result"
    clipped_L, _ = rgb_to_lab(lab_to_rgb(L, ab))
    assert (clipped_L - L).abs().max() > 5
    # Chroma only shrinks: the colour lies between grey and the wanted one.
    chroma = (fitted_ab * ab).sum(dim=1) / ab.norm(dim=1)
    across = (fitted_ab[:, 0] * ab[:, 1] - fitted_ab[:, 1] * ab[:, 0]) / ab.norm(dim=1)
    assert (chroma <= ab.norm(dim=1) + 0.1).all()
    assert across.abs().max() < 0.5


def test_colours_inside_the_gamut_do_not_change(pixels: torch.Tensor) -> None:
    L, ab = rgb_to_lab(pixels)
    rgb, share = lab_to_gamut(L, ab)
    assert share == 0
    assert (rgb[0].permute(1, 2, 0) * 255 - pixels[0]).abs().max() < 0.1


def test_constants_that_are_made_once_give_the_same_values(pixels: torch.Tensor) -> None:
    rgb = pixels.permute(0, 3, 1, 2) / 255
    for _ in range(2):
        lab = torch.cat(rgb_to_lab(rgb), dim=1)
        assert torch.equal(lab, kornia.color.rgb_to_lab(rgb))
        assert torch.equal(lab_to_rgb(lab[:, :1], lab[:, 1:]), kornia.color.lab_to_rgb(lab))
    for _ in range(2):  # a user's writing changes no later constant
        with kornia_constants():
            constant = torch.tensor([1.0, 2.0])
        assert constant.tolist() == [1, 2]
        constant.zero_()


def test_the_compiled_conversion_is_one_graph(pixels: torch.Tensor) -> None:
    compiled = torch.compile(rgb_to_lab, backend="eager", fullgraph=True)
    for converted, expected in zip(compiled(pixels), rgb_to_lab(pixels), strict=True):
        assert torch.equal(converted, expected)
