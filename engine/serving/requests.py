"""What the server is asked for, and what it answers: forms in, encoded pictures out."""

# Shapes: H W pixels.

import io
import re
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
from ..colorization.pixels import Pixels
from ..inference import TrainedColorizer
from .batching import MAX_SEEN, seen_pixels
from .decoding import Measured

Kind = Literal["png", "jpeg"]

SMALLEST = 8  # short side at which a network may be asked to see a picture
_QUALITY = 95
_STATUS = {"not an image": 415, "too many pixels": 413, "too large": 413}


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model under its name; it sees pictures with a short side of `size` if nothing else is asked for."""

    name: str
    model: TrainedColorizer
    size: int


@dataclass(frozen=True, kw_only=True)
class ColorizeRequest:
    """What a form asks for: `size` is None for native, `kind` for what suits the picture."""

    served: ServedModel
    size: int | None
    kind: Kind | None


def wish(fields: Mapping[str, str], accept: str, models: Mapping[str, ServedModel]) -> ColorizeRequest:
    """What the form's fields and the header Accept ask for. Raises HTTPException with 422."""
    name = fields.get("model") or next(iter(models))
    if name not in models:
        raise HTTPException(422, f"there is no model {name!r}; known are {', '.join(models)}")
    size = fields.get("size") or str(models[name].size)
    if size != "native" and not (size.isascii() and size.isdigit() and int(size) >= SMALLEST):
        raise HTTPException(422, f"size={size!r} is no number of pixels from {SMALLEST} on, and not 'native'")
    kind = (fields.get("format") or _accepted(accept)).lower().replace("jpg", "jpeg")
    if kind not in ("", "png", "jpeg"):
        raise HTTPException(422, f"format={kind!r} is neither 'png' nor 'jpeg'")
    return ColorizeRequest(
        served=models[name],
        size=None if size == "native" else int(size),
        kind="png" if kind == "png" else "jpeg" if kind else None,
    )


def _accepted(accept: str) -> str:
    named = [kind for kind in ("png", "jpeg") if f"image/{kind}" in accept]
    return named[0] if len(named) == 1 else ""


def check_size(measured: Measured, size: int | None, max_pixels: int) -> None:
    """Raises HTTPException with 413 or 422 for a picture that is too large, or too small."""
    width, height = measured.width, measured.height
    if width * height > max_pixels:
        most = f"{max_pixels / 1e6:g} megapixels are the most that is taken"
        raise HTTPException(413, f"the picture has {width} x {height} pixels, and {most}")
    if min(width, height) < MIN_SIDE:
        raise HTTPException(
            422, f"the picture has {width} x {height} pixels, and is to have {MIN_SIDE} each way at least"
        )
    if (seen := seen_pixels((width, height), size)) > MAX_SEEN:
        raise HTTPException(
            422,
            f"the network would have to see {seen / 1e6:.1f} megapixels at once, and {MAX_SEEN / 1e6:.1f} are the "
            "most: ask for a smaller size",
        )


def refusal(reason: Rejected | TaskFailure) -> HTTPException:
    """Why a file is no picture that can be colorized."""
    if isinstance(reason, TaskFailure):
        return HTTPException(422, f"the picture cannot be decoded: the decoder {reason.reason}, {reason.detail}")
    if reason.reason == "not an image":
        return HTTPException(415, f"the file is no image; known are {', '.join(FORMATS)}")
    return HTTPException(_STATUS.get(reason.reason, 422), f"the picture cannot be read: {reason}")


def encoded(pixels: Pixels, kind: Kind) -> bytes:
    """The picture (H, W, 3) in 8 bits as a file."""
    if kind == "jpeg":
        return encode_jpeg(pixels, _QUALITY, "444")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=2)  # 6, the default, takes 3 times as long for 5 % less
    return file.getvalue()


def disposition(name: str, model: str, kind: Kind) -> str:
    """The header that tells a browser how to name a picture that was made of the file `name`."""
    stem = PurePath(name.replace("\\", "/")).stem or "picture"
    suffix = "jpg" if kind == "jpeg" else kind
    whole = f"{stem}-{model}.{suffix}"
    plain = re.sub(r"[^\w .-]", "_", whole, flags=re.ASCII)  # for programs that know no other, such as curl
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(whole, safe='')}"
