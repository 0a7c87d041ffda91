"""Decodes uploads: the task of processes, which can crash or hang without the server."""

from dataclasses import dataclass

from ...pipelines.imaging.decode import DecodedImage, Rejected, decode, open_image


@dataclass(frozen=True, kw_only=True)
class DecodeTask:
    """An image file to decode, or to read the header of."""

    data: bytes
    header_only: bool = False


@dataclass(frozen=True, kw_only=True)
class ImageHeader:
    """Size in pixels, not yet upright, and Pillow's name of the format."""

    width: int
    height: int
    format: str


DecodeResult = ImageHeader | DecodedImage | Rejected


def run_task(task: DecodeTask) -> DecodeResult:
    """Reads the header, or decodes the image."""
    try:
        if not task.header_only:
            return decode(task.data)
        image = open_image(task.data)
        return ImageHeader(width=image.width, height=image.height, format=str(image.format))
    except Rejected as rejected:
        return rejected
    except MemoryError:
        return Rejected("too large", "this machine has not enough memory")
