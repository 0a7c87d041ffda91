"""Writes a contact sheet: images before and after, side by side."""

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...pipelines.files import atomic_write
from ...pipelines.imaging.decode import Rejected
from .pixels import composite_on_white
from .prefetch import attempt
from .read_image import read_image

MARK = b"photochrom colorize: before and after"  # the comment in the file, by which it is known as ours

_MAX_PAIRS = 24
_COLUMNS = 2  # of pairs
_SIDE = 360  # pixels, of the longer side of a thumbnail
_GAP, _CAPTION = 12, 22


def write_contact_sheet(pairs: list[tuple[Path, Path]], path: Path) -> None:
    """Writes a JPEG of (before, after) pairs with their names; of many pairs, some evenly spaced ones."""
    chosen = [pairs[i] for i in np.linspace(0, len(pairs) - 1, min(_MAX_PAIRS, len(pairs))).round().astype(int)]
    cells = [cell for before, after in chosen if (cell := _cell(before, after)) is not None]
    if not cells:
        return
    width, height = cells[0].width + 2 * _GAP, max(cell.height for cell in cells) + 2 * _GAP
    num_columns, num_rows = min(_COLUMNS, len(cells)), math.ceil(len(cells) / _COLUMNS)
    sheet = Image.new("RGB", (num_columns * width, num_rows * height), "white")
    for index, cell in enumerate(cells):
        row, column = divmod(index, _COLUMNS)
        sheet.paste(cell, (column * width + _GAP, row * height + _GAP))
    with atomic_write(path) as file:
        sheet.save(file, "JPEG", quality=90, comment=MARK)


def _cell(before: Path, after: Path) -> Image.Image | None:
    """Returns both thumbnails under a name; None when a file cannot be read, such as a kept one, or lacks memory."""
    thumbnails = attempt(lambda: [_thumbnail(path) for path in (before, after)])
    if isinstance(thumbnails, Rejected):
        return None
    cell = Image.new("RGB", (2 * _SIDE + _GAP, _CAPTION + max(image.height for image in thumbnails)), "white")
    name = before.name.encode("utf-8", "replace").decode()
    ImageDraw.Draw(cell).text((0, 0), name[:80], fill=(90, 90, 90), font=ImageFont.load_default(14))
    for column, image in enumerate(thumbnails):
        cell.paste(image, (column * (_SIDE + _GAP) + (_SIDE - image.width) // 2, _CAPTION))
    return cell


def _thumbnail(path: Path) -> Image.Image:
    source = read_image(path)
    image = Image.fromarray(composite_on_white(source.pixels, source.alpha))
    image.thumbnail((_SIDE, _SIDE))
    return image
