"""sRGB to CIE Lab and back by Kornia, on the device of the pixels; and Lab in bytes.

Lab is D65, 2 degree observer, always float32: in bfloat16 it is off by up to 0.45.
"""

# Shapes: B samples, H W pixels. L in [0, 100], ab about -110..110; rgb is sRGB.

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..shards import Store
from .kornia_constants import kornia_constants

_ROWS = 64  # converted at once: a whole large image would take 1.2 GB in float32

LabConverter = Callable[[Tensor], tuple[Tensor, Tensor]]


def rgb_to_lab(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Returns L (B, 1, H, W), ab (B, 2, H, W) of sRGB pixels: uint8 (B, H, W, 3), or float (B, 3, H, W) in [0, 1].

    Agrees with `skimage.color.rgb2lab` to 1e-3.
    """
    from kornia.color import rgb_to_lab as kornia_rgb_to_lab

    if rgb.dtype == torch.uint8:
        rgb = rgb.permute(0, 3, 1, 2).float().div_(255)
    with torch.autocast(rgb.device.type, enabled=False), kornia_constants():
        lab = kornia_rgb_to_lab(rgb.float())
    return lab[:, :1], lab[:, 1:]


def lab_uint8_to_lab(lab: Tensor) -> tuple[Tensor, Tensor]:
    """Returns L (B, 1, H, W) and ab (B, 2, H, W) of Lab in bytes (B, 3, H, W): L * 255 / 100, a + 128, b + 128."""
    return lab[:, :1].float() * (100 / 255), lab[:, 1:].float() - 128


def copy_to_device(pixels: NDArray[Any], device: torch.device) -> Tensor:
    """Returns a copy on the device; the host does not wait for a GPU."""
    dtype = getattr(torch, pixels.dtype.name)
    # torch reuses pinned memory only once it has been copied.
    staging = torch.empty(pixels.shape, dtype=dtype, pin_memory=device.type == "cuda")
    staging.numpy()[...] = pixels
    return staging.to(device, non_blocking=True)


@cache
def lab_converter(store: Store, *, compiled: bool = False) -> LabConverter:
    """Returns the function from a set's images, sRGB or Lab in bytes, to L and ab in float32."""
    convert = lab_uint8_to_lab if store == "lab" else rgb_to_lab
    return torch.compile(convert) if compiled else convert


def rgb_to_lab_uint8(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns Lab in bytes (3, H, W), as `lab_uint8_to_lab` reads it, of sRGB pixels (H, W, 3); on the CPU.

    L is off by at most 0.196 + 1e-3, a and b by 0.5 + 1e-3: half a step, plus the kernel's error.
    """
    from .kernels import rgb_crop_to_lab  # slow to import: Numba

    height, width, _ = rgb.shape
    lab = np.empty((3, height, width), np.uint8)
    for top in range(0, height, _ROWS):
        rows = slice(top, min(top + _ROWS, height))
        L, ab = np.empty(lab[0, rows].shape, np.float32), np.empty(lab[1:, rows].shape, np.float32)
        rgb_crop_to_lab(rgb, top, 0, False, L, ab)
        lab[0, rows] = L * np.float32(255 / 100) + np.float32(0.5)  # uint8 truncates, so this rounds
        lab[1:, rows] = ab + np.float32(128.5)
    return lab


def lab_to_rgb(L: Tensor, ab: Tensor) -> Tensor:
    """Returns sRGB (B, 3, H, W) in [0, 1] of L (B, 1, H, W), ab (B, 2, H, W), float32; out of gamut rgb is clipped."""
    from kornia.color import lab_to_rgb as kornia_lab_to_rgb

    with torch.autocast(L.device.type, enabled=False), kornia_constants():
        return kornia_lab_to_rgb(torch.cat([L, ab], dim=1).float(), clip=True)


def lab_to_gamut(L: Tensor, ab: Tensor, steps: int = 8) -> tuple[Tensor, float]:
    """Returns sRGB (B, 3, H, W) of L (B, 1, H, W) and ab (B, 2, H, W), and the share of pixels outside the gamut.

    Those pixels keep lightness and hue and lose chroma until they are inside, by bisection to 1 / 2^steps of their
    chroma. (`lab_to_rgb` clips rgb, which changes the lightness.)
    """
    from kornia.color import lab_to_rgb as kornia_lab_to_rgb

    with kornia_constants():
        rgb = kornia_lab_to_rgb(torch.cat([L, ab], dim=1), clip=False)
        outside = ((rgb < -1e-3) | (rgb > 1 + 1e-3)).any(dim=1)
        sample, row, column = outside.nonzero(as_tuple=True)  # the host waits for the number of pixels, here alone
        if len(sample):
            # Only the pixels outside, as images one pixel wide.
            L_out, ab_out = (channels[sample, :, row, column].T[None, ..., None] for channels in (L, ab))
            low, high = torch.zeros_like(L_out), torch.ones_like(L_out)
            for _ in range(steps):
                middle = (low + high) / 2
                inner = kornia_lab_to_rgb(torch.cat([L_out, middle * ab_out], dim=1), clip=False)
                fits = ((inner > -1e-3) & (inner < 1 + 1e-3)).all(dim=1, keepdim=True)
                low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
            fitted = kornia_lab_to_rgb(torch.cat([L_out, low * ab_out], dim=1), clip=False)
            rgb[sample, :, row, column] = fitted[0, ..., 0].T
    return rgb.clamp(0, 1), len(sample) / outside.numel()
