"""Parses and checks requests, and encodes responses."""

# Shapes: H W pixels.

import io
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal
from urllib.parse import quote

from fastapi import HTTPException
from PIL import Image

from ...pipelines.imaging.decode import FORMATS, MIN_SIDE, Rejected
from ...pipelines.imaging.encode import encode_jpeg
from ...pipelines.packing.worker_pool import TaskFailure
from ..colorization.config import INPUT_SIDE
from ..colorization.pixels import Pixels
from ..inference import TrainedColorizer
from .batching import MAX_INPUT_PIXELS, input_pixels
from .decoding import ImageHeader

OutputFormat = Literal["png", "jpeg"]

_JPEG_QUALITY = 95
_MAX_STEM = 100  # characters: proxies refuse long headers
_STATUS_CODES = {"too many pixels": 413, "too large": 413}  # of reasons to reject a file; 422 for others


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model with its name and the default short side of its input."""

    name: str
    model: TrainedColorizer
    size: int


@dataclass(frozen=True, kw_only=True)
class ColorizeRequest:
    """The options of a request: `size` None for full size, `output_format` None for that of the file, or PNG."""

    served: ServedModel
    size: int | None
    output_format: OutputFormat | None


def parse_request(fields: Mapping[str, str], accept: str, models: Mapping[str, ServedModel]) -> ColorizeRequest:
    """Parses the form's fields and the Accept header. Raises HTTPException with 422."""
    name = fields.get("model") or next(iter(models))
    if name not in models:
        raise HTTPException(422, f"there is no model {reprlib.repr(name)}; the models are {', '.join(models)}")
    size = fields.get("size") or str(models[name].size)
    low, high = INPUT_SIDE
    if size != "native" and not (re.fullmatch("[0-9]{1,5}", size) and low <= int(size) <= high):
        expected = f"a number of pixels from {low} to {high}"
        raise HTTPException(422, f"size={reprlib.repr(size)} is neither {expected} nor 'native'")
    output_format = (fields.get("format") or _accepted_format(accept)).lower().replace("jpg", "jpeg")
    if output_format not in ("", "png", "jpeg"):
        raise HTTPException(422, f"format={reprlib.repr(output_format)} is neither 'png' nor 'jpeg'")
    return ColorizeRequest(
        served=models[name],
        size=None if size == "native" else int(size),
        output_format="png" if output_format == "png" else "jpeg" if output_format else None,
    )


def _accepted_format(accept: str) -> str:
    accepted = [name for name in ("png", "jpeg") if f"image/{name}" in accept]
    return accepted[0] if len(accepted) == 1 else ""


def check_image(header: ImageHeader, size: int | None, max_pixels: int) -> None:
    """Raises HTTPException with 413 or 422 for an image that is too large or too small."""
    width, height = header.width, header.height
    if width * height > max_pixels:
        raise HTTPException(
            413, f"the image has {width} x {height} pixels; the limit is {max_pixels / 1e6:g} megapixels"
        )
    if min(width, height) < MIN_SIDE:
        raise HTTPException(422, f"the image has {width} x {height} pixels; each side needs at least {MIN_SIDE}")
    if (num_pixels := input_pixels((width, height), size)) > MAX_INPUT_PIXELS:
        raise HTTPException(
            422,
            f"the network's input would have {num_pixels / 1e6:.1f} megapixels; the limit is "
            f"{MAX_INPUT_PIXELS / 1e6:.1f}: choose a smaller size",
        )


def decoding_error(failure: Rejected | TaskFailure) -> HTTPException:
    """Returns the response to a file that cannot be decoded."""
    if isinstance(failure, TaskFailure):
        return HTTPException(422, f"the image cannot be decoded: the decoder {failure.reason}, {failure.detail}")
    if failure.reason == "not an image":
        return HTTPException(415, f"the file is not an image of a known format: {', '.join(FORMATS)}")
    return HTTPException(_STATUS_CODES.get(failure.reason, 422), f"the image cannot be read: {failure}")


def encode_image(pixels: Pixels, output_format: OutputFormat) -> bytes:
    """Encodes 8-bit pixels (H, W, 3)."""
    if output_format == "jpeg":
        return encode_jpeg(pixels, _JPEG_QUALITY, "444")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=2)  # the default, 6, takes 3 times as long for 5 % less
    return file.getvalue()


def content_disposition(name: str, model: str, output_format: OutputFormat) -> str:
    """Returns the header that names the download, from the upload's name and the model's."""
    stem = PurePath(name.replace("\\", "/")).stem[:_MAX_STEM] or "image"
    filename = f"{stem}-{model}.{'jpg' if output_format == 'jpeg' else output_format}"
    ascii_name = re.sub(r"[^\w .-]", "_", filename, flags=re.ASCII)  # for clients such as curl
    return f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''{quote(filename, '', errors='replace')}"
