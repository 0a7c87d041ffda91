"""Colorizes pictures at full resolution: the network sees a small copy, the lightness stays the picture's own."""

# Shapes: H W pixels.

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ...models import Colorizer
from ...pipelines.imaging.color import lab_to_gamut, rgb_to_lab
from ...pipelines.loading.threads import Threads, own_cores

Pixels = NDArray[np.unsignedinteger[Any]]  # sRGB (H, W, 3), uint8 or uint16

_ROWS = 256  # at once: Lab takes some 100 bytes for each pixel, and there are photographs of 100 megapixels
_STEPS = 8  # to the strongest chroma that sRGB shows: 1 / 256 of the predicted one


@dataclass(frozen=True, kw_only=True)
class Colored:
    """A colorized picture, sRGB (H, W, 3) of the input's type.

    `clipped` is the share of its pixels for which sRGB has no colour as strong as the predicted one.
    """

    pixels: Pixels
    clipped: float


@torch.inference_mode()
def colorize(
    model: Colorizer, pictures: Sequence[Pixels], *, size: int | None, device: torch.device | str
) -> list[Colored]:
    """The pictures, sRGB of any size, uint8 or uint16 (H, W, 3), with the model's colours and their own lightness.

    The model sees each reduced to a short side of `size` pixels, never enlarged; with None, as large as it is. Those
    that are then of one size go through it together. Where sRGB cannot show a predicted colour, chroma is reduced, at
    its lightness and hue, until it can.
    """
    lightness = [_lightness(picture, torch.device(device)) for picture in pictures]
    together = defaultdict(list)
    for number, L in enumerate(lightness):
        together[_seen(L, size)].append(number)
    colored: list[Colored | None] = [None] * len(pictures)
    for shape, numbers in together.items():
        prediction = model(torch.cat([_resized(lightness[number], shape) for number in numbers]))
        for place, number in enumerate(numbers):
            ab = prediction[place : place + 1].ab(pictures[number].shape[:2])
            colored[number] = _joined(lightness[number], ab, pictures[number].dtype)
    return [picture for picture in colored if picture is not None]


def _seen(L: Tensor, size: int | None) -> tuple[int, int]:
    """Height and width at which the network sees L (1, 1, H, W)."""
    height, width = L.shape[2:]
    factor = 1.0 if size is None else min(1.0, size / min(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def _resized(L: Tensor, shape: tuple[int, int]) -> Tensor:
    """L (1, 1, H, W) reduced, antialiased."""
    if L.shape[2:] == shape:
        return L
    return F.interpolate(L, size=shape, mode="bilinear", align_corners=False, antialias=True)


def _lightness(picture: Pixels, device: torch.device) -> Tensor:
    """L (1, 1, H, W) of a picture."""
    if device.type == "cpu":
        return _lightness_by_threads(picture)
    return _lightness_by_tensors(picture, device)


def _lightness_by_tensors(picture: Pixels, device: torch.device) -> Tensor:
    strips = (picture[start : start + _ROWS] for start in range(0, len(picture), _ROWS))
    return torch.cat([rgb_to_lab(_rgb(strip, device))[0] for strip in strips], dim=2)


def _rgb(pixels: Pixels, device: torch.device) -> Tensor:
    """float32 (1, 3, H, W) in [0, 1]."""
    planes = torch.from_numpy(np.array(pixels)).to(device).permute(2, 0, 1)[None]
    return planes.float() / np.iinfo(pixels.dtype).max


def _joined(L: Tensor, ab: Tensor, dtype: np.dtype[np.unsignedinteger[Any]]) -> Colored:
    """The picture of L (1, 1, H, W) and ab (1, 2, H, W)."""
    if L.device.type == "cpu":
        return _joined_by_threads(L, ab, dtype)
    return _joined_by_tensors(L, ab, dtype)


def _joined_by_tensors(L: Tensor, ab: Tensor, dtype: np.dtype[np.unsignedinteger[Any]]) -> Colored:
    top = np.iinfo(dtype).max
    pixels, clipped = np.empty((*L.shape[2:], 3), dtype), 0.0
    for start in range(0, L.shape[2], _ROWS):
        rows = slice(start, start + _ROWS)
        rgb, outside = lab_to_gamut(L[:, :, rows], ab[:, :, rows], _STEPS)
        pixels[rows] = (rgb[0].permute(1, 2, 0) * top).round().cpu().numpy()
        clipped += outside * len(pixels[rows]) / len(pixels)
    return Colored(pixels=pixels, clipped=clipped)


def _lightness_by_threads(picture: Pixels) -> Tensor:
    from .lab_kernels import linear_light, write_lightness  # Numba takes its time to load

    linear = linear_light(picture.dtype)
    L = np.empty(picture.shape[:2], np.float32)

    def strip(number: int) -> None:
        rows = slice(number * _ROWS, (number + 1) * _ROWS)
        write_lightness(np.ascontiguousarray(picture[rows]), linear, L[rows])

    _threads().start(strip, -(-len(L) // _ROWS)).wait()
    return torch.from_numpy(L)[None, None]


def _joined_by_threads(L: Tensor, ab: Tensor, dtype: np.dtype[np.unsignedinteger[Any]]) -> Colored:
    from .lab_kernels import write_joined

    lightness, colours = L[0, 0].numpy(), ab[0].float().numpy()
    pixels = np.empty((*lightness.shape, 3), dtype)
    outside = np.zeros(-(-len(pixels) // _ROWS), np.int64)

    def strip(number: int) -> None:
        rows = slice(number * _ROWS, (number + 1) * _ROWS)
        outside[number] = write_joined(lightness[rows], np.ascontiguousarray(colours[:, rows]), pixels[rows], _STEPS)

    _threads().start(strip, len(outside)).wait()
    return Colored(pixels=pixels, clipped=float(outside.sum() / lightness.size))


@cache
def _threads() -> Threads:
    return Threads(own_cores())
