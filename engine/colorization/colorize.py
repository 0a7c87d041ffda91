"""Colorizes images at full resolution: the model sees a reduced copy, the lightness stays that of the image."""

# Shapes: H W pixels.

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...models import Colorizer
from ...pipelines.imaging.color import copy_to_device, lab_to_gamut, rgb_to_lab
from ...pipelines.imaging.decode import reduced_size
from ...pipelines.imaging.srgb import linear_light
from ...pipelines.system import available_cpus
from ...pipelines.threads import ThreadPool
from .pixels import Pixels

_ROWS = 256  # at once: Lab takes some 100 bytes for each pixel, and there are images of 100 megapixels
_GAMUT_STEPS = 8  # of a bisection: chroma is exact to 1 / 256 of the predicted one


@dataclass(frozen=True, kw_only=True)
class ColorizedImage:
    """A colorized image, sRGB (H, W, 3) of the input's type; `clipped` is the share of pixels with reduced chroma."""

    pixels: Pixels
    clipped: float


@torch.inference_mode()
def colorize(
    model: Colorizer, images: Sequence[Pixels], *, size: int | None, device: torch.device | str
) -> list[ColorizedImage]:
    """Returns images, sRGB (H, W, 3) in uint8 or uint16, in the model's colours with their own lightness.

    The model sees each image reduced to a short side of `size` pixels, never enlarged; with None, at full size. Images
    of one reduced size form a batch. Where sRGB cannot show a predicted colour, its chroma is reduced, at the same
    lightness and hue, until sRGB can.
    """
    lightness = [_to_lightness(image, torch.device(device)) for image in images]
    batches = defaultdict(list)
    for index, L in enumerate(lightness):
        width, height = reduced_size((L.shape[3], L.shape[2]), size)
        batches[height, width].append(index)
    results: dict[int, ColorizedImage] = {}
    for shape, indices in batches.items():
        prediction = model(torch.cat([_resize(lightness[index], shape) for index in indices]))
        for row, index in enumerate(indices):
            ab = prediction[row : row + 1].ab(images[index].shape[:2])
            results[index] = _to_rgb(lightness[index], ab, images[index].dtype)
    return [results[index] for index in range(len(images))]


def load_kernels(device: torch.device) -> None:
    """Imports what converts images on a CPU, before images take the memory: libraries that lack it can hang."""
    if device.type == "cpu":
        from ...pipelines.imaging import lightness_kernels  # noqa: F401


def _resize(L: Tensor, shape: tuple[int, int]) -> Tensor:
    """Reduces L (1, 1, H, W), antialiased."""
    if L.shape[2:] == shape:
        return L
    return F.interpolate(L, size=shape, mode="bilinear", align_corners=False, antialias=True)


def _to_lightness(image: Pixels, device: torch.device) -> Tensor:
    """Returns L (1, 1, H, W) of an image (H, W, 3) on the device."""
    return _to_lightness_numba(image) if device.type == "cpu" else _to_lightness_torch(image, device)


def _to_lightness_torch(image: Pixels, device: torch.device) -> Tensor:
    white, strips = np.iinfo(image.dtype).max, []
    for rows in _strips(len(image)):
        rgb = copy_to_device(image[rows], device).permute(2, 0, 1)[None].float() / white
        strips.append(rgb_to_lab(rgb)[0])
    return torch.cat(strips, dim=2)


def _to_rgb(L: Tensor, ab: Tensor, dtype: np.dtype[np.unsignedinteger[Any]]) -> ColorizedImage:
    """Returns the image of L (1, 1, H, W) and ab (1, 2, H, W)."""
    return _to_rgb_numba(L, ab, dtype) if L.device.type == "cpu" else _to_rgb_torch(L, ab, dtype)


def _to_rgb_torch(L: Tensor, ab: Tensor, dtype: np.dtype[np.unsignedinteger[Any]]) -> ColorizedImage:
    white, clipped = np.iinfo(dtype).max, 0.0
    pixels = torch.empty((*L.shape[2:], 3), dtype=getattr(torch, dtype.name), device=L.device)
    for rows in _strips(len(pixels)):
        rgb, share = lab_to_gamut(L[:, :, rows], ab[:, :, rows], _GAMUT_STEPS)
        pixels[rows] = (rgb[0].permute(1, 2, 0) * white).round()
        clipped += share * len(pixels[rows]) / len(pixels)
    return ColorizedImage(pixels=pixels.cpu().numpy(), clipped=clipped)  # the host waits once, for a few bytes a pixel


def _to_lightness_numba(image: Pixels) -> Tensor:
    from ...pipelines.imaging.lightness_kernels import write_lightness  # imports Numba, which is slow

    linear = linear_light(np.iinfo(image.dtype).max + 1).astype(np.float32)
    L = np.empty(image.shape[:2], np.float32)
    _map_strips(lambda rows: write_lightness(np.ascontiguousarray(image[rows]), linear, L[rows]), len(L))
    return torch.from_numpy(L)[None, None]


def _to_rgb_numba(L: Tensor, ab: Tensor, dtype: np.dtype[np.unsignedinteger[Any]]) -> ColorizedImage:
    from ...pipelines.imaging.lightness_kernels import write_rgb

    lightness, chroma = L[0, 0].numpy(), ab[0].float().numpy()
    pixels = np.empty((*lightness.shape, 3), dtype)

    def convert(rows: slice) -> int:
        return int(write_rgb(lightness[rows], np.ascontiguousarray(chroma[:, rows]), pixels[rows], _GAMUT_STEPS))

    num_clipped = sum(_map_strips(convert, len(pixels)))
    return ColorizedImage(pixels=pixels, clipped=num_clipped / lightness.size)


def _map_strips(function: Callable[[slice], int], height: int) -> list[int]:
    """Calls the function in threads for all strips of rows, few at a time: images of other callers get their turn."""
    strips, number = _strips(height), available_cpus()
    rounds = [strips[start : start + number] for start in range(0, len(strips), number)]
    return [result for some in rounds for result in _threads().map(function, some)]


def _strips(height: int) -> list[slice]:
    return [slice(start, start + _ROWS) for start in range(0, height, _ROWS)]


@cache
def _threads() -> ThreadPool:
    return ThreadPool(available_cpus())
