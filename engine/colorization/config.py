"""Options of `photochrom colorize`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...pipelines.ranges import COUNT, SIDE, check_ranges
from ..configuration.config import Device

INPUT_SIDE = (8, SIDE[1])  # pixels of the short side of the network's input, from its stride


@dataclass(frozen=True, kw_only=True)
class ColorizeConfig:
    """Colorizes images and videos at full resolution with their own lightness.

    Args:
        inputs: Images, videos, folders of them, patterns such as 'album/**/*.jpg', or - for a list on stdin.
        model: Run folder, checkpoint, model.safetensors, or a shipped model by name. Default: small-l2.
        out: Folder for the results; other files in it stay.
        size: Short side in pixels at which the network sees an image, or native for full size. Default: the size of
            its training.
        overwrite: Colorize files again whose results are in out already.
        contact_sheet: Also write before-after.jpg, images beside their results.
        batch_size: Frames of a video that go through the network together.
        device: auto, cuda or cpu.
        plugin: Python module to import first, for a model class of your own.
    """

    inputs: list[str]
    model: Path | None = None
    out: Path = Path("colorized")
    size: int | Literal["native"] | None = None
    overwrite: bool = False
    contact_sheet: bool = False
    batch_size: int = 8
    device: Device = "auto"
    plugin: str | None = None

    def __post_init__(self) -> None:
        check_ranges(self, size=INPUT_SIDE, batch_size=COUNT)
