"""Makes the pictures of docs/models.md: python docs/images/gallery.py VALIDATION_SHARDS HISTORIC_FOLDER

Both rules were fixed before any result was looked at: every 25th photograph of the validation set as stored, from the
first on, and all historic photographs by name. The README shows the first four of each.
"""

import io
import sys
from pathlib import Path

import photochrom
from photochrom.pipelines import ShardSet
from PIL import Image, ImageOps

NAMES = ("small-l2", "small-focal-l2", "small-rebalanced-ce")
MODELS = [photochrom.load(name) for name in NAMES]
TILE, GAP = 160, 4
OUT = Path(__file__).parent


def row(image: Image.Image, *, with_truth: bool) -> list[Image.Image]:
    """Returns the grey photograph, each model's result and the original, as square tiles."""
    grey = ImageOps.exif_transpose(image).convert("L").convert("RGB")
    images = [grey, *(model.colorize(grey) for model in MODELS)] + [image.convert("RGB")] * with_truth
    return [ImageOps.fit(tile, (TILE, TILE), Image.Resampling.LANCZOS) for tile in images]


def sheet(columns: list[list[Image.Image]]) -> Image.Image:
    """Returns tiles side by side, one list a column."""
    step = TILE + GAP
    page = Image.new("RGB", (step * len(columns) - GAP, step * max(map(len, columns)) - GAP), "white")
    for x, column in enumerate(columns):
        for y, tile in enumerate(column):
            page.paste(tile, (x * step, y * step))
    return page


validation = ShardSet.open(sys.argv[1])
chosen = [Image.open(io.BytesIO(validation.sample(i).read())) for i in range(0, validation.num_samples, 25)]
rows = [row(image, with_truth=True) for image in chosen]
historic = [row(Image.open(path), with_truth=False) for path in sorted(Path(sys.argv[2]).glob("*.jpg"))]
sheet([*map(list, zip(*rows[:12], strict=True)), *map(list, zip(*rows[12:], strict=True))]).save(
    OUT / "models.jpg", quality=88
)
sheet([list(column) for column in zip(*historic, strict=True)]).save(OUT / "historic.jpg", quality=88)
ends = [[tiles[0], tiles[1], tiles[-1]] for tiles in rows[:4]] + [[tiles[0], tiles[1]] for tiles in historic[:4]]
sheet(ends).save(OUT / "readme.jpg", quality=90)
