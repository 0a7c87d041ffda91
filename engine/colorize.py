"""Colorizes photographs at full resolution: the network sees a small copy, the lightness stays the photograph's own."""

# Shapes: H W pixels.

import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..models import Colorizer
from ..pipelines.color import lab_to_gamut, rgb_to_lab
from ..pipelines.files import whole_file
from ..pipelines.photograph import FORMATS, Rejected, decode, read_file

_ROWS = 256  # at once: Lab takes some 100 bytes for each pixel, and there are photographs of 100 megapixels
_KEPT = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}  # what keeps its name; all else gets .png added to it


@torch.inference_mode()
def colorize(model: Colorizer, photograph: Image.Image, *, size: int, device: torch.device) -> Image.Image:
    """The photograph (8-bit RGB, any size) with the model's colours and its own lightness.

    The model sees it reduced to a short side of `size` pixels, never enlarged. Where sRGB cannot show a predicted
    colour, chroma is reduced until it can.
    """
    pixels = torch.from_numpy(np.array(photograph))[None].to(device)
    L = torch.cat([rgb_to_lab(strip)[0] for strip in pixels.split(_ROWS, dim=1)], dim=2)
    ab = model(_reduced(L, size)).ab((photograph.height, photograph.width))
    strips = (tensor.split(_ROWS, dim=2) for tensor in (L, ab, pixels.permute(0, 3, 1, 2)))
    for L_strip, ab_strip, rgb_strip in zip(*strips, strict=True):
        rgb, _ = lab_to_gamut(L_strip, ab_strip)
        rgb_strip.copy_((rgb * 255).round().byte())
    return Image.fromarray(pixels[0].cpu().numpy())


def colorize_files(
    model: Colorizer,
    jobs: list[tuple[Path, Path]],
    *,
    size: int,
    device: torch.device,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[tuple[Path, str]]:
    """Colorizes files (from, to), which become upright 8-bit RGB; returns those that could not be read, and why."""
    failed = []
    for done, (source, target) in enumerate(jobs, start=1):
        try:
            photograph, _ = decode(read_file(source))
        except Rejected as rejected:
            failed.append((source, str(rejected)))
        else:
            try:
                _save(colorize(model, photograph, size=size, device=device), target)
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    raise
                failed.append((source, "with .png at its end, its name is too long"))
        progress(done, len(jobs))
    return failed


def plan(inputs: list[Path], out: Path) -> list[tuple[Path, Path]]:
    """What is read and written: files go to `out`, folders are searched for images and their tree is mirrored there.

    JPEGs and PNGs keep their names, all else becomes PNG. Raises ValueError for an input that does not exist, or two
    for one output.
    """
    jobs: dict[Path, Path] = {}
    for source, relative in _photographs(inputs):
        kept = relative.suffix.lower() in _KEPT
        target = out / (relative if kept else relative.with_name(f"{relative.name}.png"))
        if target in jobs:
            raise ValueError(
                f"{jobs[target]} and {source} would both become {target}: colorize them one after the other"
            )
        jobs[target] = source
    if not jobs:
        raise ValueError(f"{', '.join(map(str, inputs))} holds no photographs")
    return [(source, target) for target, source in jobs.items()]


def _photographs(inputs: list[Path]) -> Iterator[tuple[Path, Path]]:
    """Every file that is meant, and its place in the output."""
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    for path in inputs:
        if path.is_dir():
            files = (file for file in sorted(path.rglob("*")) if file.is_file() and file.suffix.lower() in known)
            yield from ((file, file.relative_to(path)) for file in files)
        elif path.is_file():
            yield path, Path(path.name)
        else:
            raise ValueError(f"there is no photograph or folder {path}")


def _reduced(L: Tensor, size: int) -> Tensor:
    """L (1, 1, H, W) reduced to a short side of `size`, antialiased; smaller ones stay as they are."""
    height, width = L.shape[2:]
    factor = size / min(height, width)
    if factor >= 1:
        return L
    small = (max(1, round(height * factor)), max(1, round(width * factor)))
    return F.interpolate(L, size=small, mode="bilinear", align_corners=False, antialias=True)


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = _KEPT[path.suffix.lower()]
    with whole_file(path) as file:
        image.save(file, format=kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))
