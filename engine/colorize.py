"""Colorizes photographs at full resolution: the network sees a small copy, the lightness stays the photograph's own."""

# Shapes: H W pixels.

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..models import Colorizer
from ..pipelines.color import lab_to_gamut, rgb_to_lab
from ..pipelines.photograph import Rejected, decode, read_file


@torch.inference_mode()
def colorize(
    model: Colorizer, photograph: Image.Image, *, size: int, device: torch.device
) -> tuple[Image.Image, float]:
    """The photograph (8-bit RGB, any size) with the model's colours and its own lightness.

    The model sees it reduced to a short side of `size` pixels, never enlarged. Also returns the share of pixels whose
    predicted colour sRGB cannot show; there, chroma is reduced until it can.
    """
    pixels = torch.from_numpy(np.array(photograph))[None].to(device)
    L, _ = rgb_to_lab(pixels)
    ab = model(_reduced(L, size)).ab((photograph.height, photograph.width))
    rgb, share_outside = lab_to_gamut(L, ab)
    return Image.fromarray((rgb[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy()), share_outside


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
            colored, _ = colorize(model, photograph, size=size, device=device)
            _save(colored, target)
        progress(done, len(jobs))
    return failed


def plan(inputs: list[Path], out: Path) -> list[tuple[Path, Path]]:
    """What is read and written: files go to `out`, folders are searched for images and their tree is mirrored there.

    JPEGs stay JPEGs, all else becomes PNG. Raises ValueError for an input that does not exist, or two for one output.
    """
    jobs: dict[Path, Path] = {}
    for source, relative in _photographs(inputs):
        suffix = ".jpg" if source.suffix.lower() in (".jpg", ".jpeg") else ".png"
        target = out / relative.with_suffix(suffix)
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
    known = Image.registered_extensions()
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
    """Writes an image, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    options = {"quality": 95, "subsampling": 0} if path.suffix == ".jpg" else {}
    image.save(temporary, format="JPEG" if path.suffix == ".jpg" else "PNG", **options)
    temporary.rename(path)
