"""Reads an image file with its depth, opacity and metadata; notes what is changed or lost."""

# Shapes: H W pixels.

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from ...pipelines.imaging.decode import ORIENTATIONS, check_size, open_image, read_file, rejecting, turn_upright
from .metadata import ImageMetadata, extract_metadata
from .pixels import Pixels, decode_srgb, is_16_bit

MAX_PIXELS = 200_000_000  # the largest cameras have 151 million


@dataclass(frozen=True, kw_only=True)
class SourceImage:
    """An upright image, sRGB (H, W, 3) in 8 or 16 bit.

    `alpha` (H, W) is its opacity in the same depth, None where the file has none. `notes` list what was changed or
    lost; the same change has the same words in every file.
    """

    pixels: Pixels
    alpha: Pixels | None
    metadata: ImageMetadata
    notes: tuple[str, ...]


def read_image(source: Path, reserve: Callable[[int], None] = lambda amount: None) -> SourceImage:
    """Reads an image file. Before decoding, calls `reserve` with the bytes that the image takes until it is written.

    Raises Rejected.
    """
    data = read_file(source)
    image = open_image(data)
    check_size(image.size, min_side=1, max_pixels=MAX_PIXELS)
    width, height = image.size
    reserve(2 * 4 * (2 if is_16_bit(image) else 1) * width * height)  # as read, and as written
    with rejecting():
        return _decode(image, data)


def _decode(image: ImageFile.ImageFile, data: bytes) -> SourceImage:
    dropped = "smaller images in the TIFF dropped" if image.tell() else "only the first image used"
    notes = [dropped] if getattr(image, "is_animated", False) else []
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1) if isinstance(image, TiffImageFile) else 1
    pixels, alpha, profile = decode_srgb(image, data, notes)  # here Pillow turns TIFFs upright
    remaining = image.getexif().get(ExifTags.Base.Orientation, 1)  # loads a PNG, so not before `is_16_bit`
    if remaining in ORIENTATIONS:
        pixels, alpha = turn_upright(pixels, remaining), None if alpha is None else turn_upright(alpha, remaining)
    if turned := remaining in ORIENTATIONS or orientation in ORIENTATIONS:
        notes.append("turned upright")
    metadata = extract_metadata(image, data, profile, notes, turned=turned)
    return SourceImage(pixels=pixels, alpha=alpha, metadata=metadata, notes=tuple(notes))
