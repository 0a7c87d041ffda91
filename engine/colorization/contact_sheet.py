"""One picture of many: photographs before and after, side by side."""

# Shapes: H W pixels.

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...pipelines.files import atomic_write
from ...pipelines.imaging.decode import Rejected
from .output_names import MARK
from .pixels import in_8_bit
from .read_image import read_picture

_MOST = 24  # photographs
_COLUMNS = 2  # of pairs
_SIDE = 360  # pixels that a picture is high or wide at most
_GAP, _CAPTION = 12, 22


def write_contact_sheet(pairs: list[tuple[Path, Path]], path: Path) -> None:
    """Writes a JPEG of photographs (before, after), with their names; of many, some from all over the list."""
    chosen = [pairs[place] for place in np.linspace(0, len(pairs) - 1, min(_MOST, len(pairs))).round().astype(int)]
    cells = [cell for before, after in chosen if (cell := _cell(before, after)) is not None]
    if not cells:
        return
    rows = [cells[start : start + _COLUMNS] for start in range(0, len(cells), _COLUMNS)]
    heights = [max(cell.height for cell in row) for row in rows]
    columns = min(_COLUMNS, len(cells))
    sheet = Image.new("RGB", (columns * (cells[0].width + 2 * _GAP), sum(heights) + len(rows) * 2 * _GAP), "white")
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (_GAP + column * (cell.width + 2 * _GAP), top))
        top += height + 2 * _GAP
    with atomic_write(path) as file:
        sheet.save(file, "JPEG", quality=90, comment=MARK)


def _cell(before: Path, after: Path) -> Image.Image | None:
    """The two side by side under a name; None when one cannot be read, such as one that was there before."""
    try:
        small = [_small(path) for path in (before, after)]
    except Rejected:
        return None
    cell = Image.new("RGB", (2 * _SIDE + _GAP, _CAPTION + max(it.height for it in small)), "white")
    name = before.name.encode("utf-8", "replace").decode()
    ImageDraw.Draw(cell).text((0, 0), name[:80], fill=(90, 90, 90), font=ImageFont.load_default(14))
    for column, picture in enumerate(small):
        cell.paste(picture, (column * (_SIDE + _GAP) + (_SIDE - picture.width) // 2, _CAPTION))
    return cell


def _small(path: Path) -> Image.Image:
    picture = read_picture(path)
    image = Image.fromarray(np.ascontiguousarray(in_8_bit(picture.pixels)))
    if picture.alpha is not None:
        white = Image.new("RGB", image.size, "white")
        image = Image.composite(image, white, Image.fromarray(np.ascontiguousarray(in_8_bit(picture.alpha))))
    image.thumbnail((_SIDE, _SIDE))
    return image
