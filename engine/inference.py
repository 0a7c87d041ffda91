"""Loads a trained model, and colorizes PIL images, arrays and tensors with it."""

# Shapes: B samples, C channels, H W pixels.

import os
from itertools import chain
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..models import Colorizer, ColorPrediction
from ..pipelines.imaging.decode import deep_grey
from .checkpoints.model_file import ModelMetadata, load_with_metadata
from .colorization.colorize import colorize
from .colorization.config import INPUT_SIDE
from .colorization.pixels import Pixels, image_to_srgb, to_uint8
from .distributed import resolve_device

ImageType = TypeVar("ImageType", Image.Image, NDArray[Any], Tensor)
Size = int | Literal["native"] | None

_TOLERANCE = 1e-3  # beyond [0, 1]: resizing floats overshoots
_INFO_KEYS = ("exif", "dpi", "xmp")  # not the profile: the result is sRGB


def load(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> "TrainedColorizer":
    """Returns the trained model in a run folder, a checkpoint or a model file, or a shipped one.

    It is in evaluation mode, and its weights take no gradients. `model(L)` returns a ColorPrediction and
    `model.colorize(image)` an image; `model.network` is the network alone and `model.metadata` says how it was trained.
    Nothing in the file is executed: import the module of a class of your own
    before. Raises ValueError when there is no model at `path`, it cannot be built, or there is no such device.
    """
    if str(device).startswith("cuda"):
        resolve_device("cuda")  # raises when there is none
    return TrainedColorizer(*load_with_metadata(path, device)).eval().requires_grad_(False)


class TrainedColorizer(Colorizer):
    """A network with its metadata; predicts as the network does."""

    def __init__(self, network: Colorizer, metadata: ModelMetadata) -> None:
        super().__init__()
        self.network, self.metadata = network, metadata
        self.head = network.head

    def forward(self, L: Tensor) -> ColorPrediction:
        prediction: ColorPrediction = self.network(L)
        return prediction

    def autotune(self, L: Tensor, *, compiled: bool = False) -> None:
        self.network.autotune(L, compiled=compiled)

    @property
    def device(self) -> torch.device:
        """The network's device."""
        tensor = next(chain(self.network.parameters(), self.network.buffers()), None)
        return torch.device("cpu") if tensor is None else tensor.device

    def colorize(self, image: ImageType, size: Size = None) -> ImageType:
        """Returns the image in the network's colours with its own lightness, in the type it was given.

        A PIL image becomes RGB, or RGBA if it has transparency, converted to sRGB by its profile. A NumPy array
        (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), whose fourth channel is ignored, becomes (H, W, 3). A tensor
        (C, H, W) or (B, C, H, W) with 1 or 3 channels becomes one with 3. Arrays and tensors are sRGB in uint8, uint16
        or floats in [0, 1]; they keep their dtype, and tensors their device, without gradients.

        The network sees the image with a short side of `size` pixels, never enlarged; by default the size of its
        training, and with "native" at full size. Raises TypeError or ValueError for anything else.

        >>> photochrom.load("runs/first").colorize(Image.open("old.jpg")).save("new.jpg")
        """
        if size not in (None, "native") and (not isinstance(size, int) or size < INPUT_SIDE[0]):
            raise ValueError(f'size={size!r} is not a number of pixels from {INPUT_SIDE[0]}, nor "native"')
        short_side = self.metadata.size if size is None else None if size == "native" else size
        if isinstance(image, Image.Image):
            return self._colorize_pil(image, short_side)
        if isinstance(image, np.ndarray):
            return self._colorize_array(image, short_side)
        if isinstance(image, Tensor):
            return self._colorize_tensor(image, short_side)
        raise TypeError(f"a {type(image).__name__} is not an image: give a PIL image, a NumPy array or a tensor")

    def _colorize(self, images: list[Pixels], size: int | None) -> list[Pixels]:
        return [result.pixels for result in colorize(self, images, size=size, device=self.device)]

    def _colorize_pil(self, image: Image.Image, size: int | None) -> Image.Image:
        pixels, alpha = _pil_to_srgb(image)
        (colorized,) = self._colorize([pixels], size)
        result = Image.fromarray(colorized)
        if alpha is not None:
            result.putalpha(Image.fromarray(alpha))
        result.info = {key: value for key, value in image.info.items() if key in _INFO_KEYS}
        return result

    def _colorize_array(self, image: NDArray[Any], size: int | None) -> NDArray[Any]:
        array = image[..., None] if image.ndim == 2 else image
        if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
            raise ValueError(f"an array {image.shape} is not an image (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
        (pixels,) = self._colorize([_to_integers(array[..., :3])], size)
        return _to_dtype(pixels, image.dtype)

    def _colorize_tensor(self, image: Tensor, size: int | None) -> Tensor:
        batch = image[None] if image.ndim == 3 else image
        if batch.ndim != 4 or batch.shape[1] not in (1, 3) or 0 in batch.shape:
            raise ValueError(f"a tensor {tuple(image.shape)} is not an image (C, H, W) or (B, C, H, W), C being 1 or 3")
        if batch.dtype == torch.bfloat16:  # NumPy has no bfloat16
            return self._colorize_tensor(image.float(), size).bfloat16()
        arrays = batch.detach().cpu().permute(0, 2, 3, 1).numpy()
        colorized = self._colorize([_to_integers(array) for array in arrays], size)
        stacked = np.stack([_to_dtype(pixels, arrays.dtype) for pixels in colorized])
        tensor = torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous().to(image.device)
        return tensor[0] if image.ndim == 3 else tensor


def _to_integers(array: NDArray[Any]) -> Pixels:
    """Returns sRGB or grey (H, W, C) of any type as (H, W, 3): uint8 stays, floats become uint16."""
    if np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= -_TOLERANCE and array.max() <= 1 + _TOLERANCE):  # false for nan, too
            raise ValueError(
                f"floats from {array.min():g} to {array.max():g} are not an image in [0, 1]: divide by the value of "
                "white"
            )
        array = (array.astype(np.float32).clip(0, 1) * 65535).round().astype(np.uint16)
    if array.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"{array.dtype} is not a type of images: give uint8, uint16 or floats in [0, 1]")
    return np.array(np.broadcast_to(array, (*array.shape[:2], 3)))


def _to_dtype(pixels: Pixels, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Returns pixels in the type of the input: uint16 becomes floats in [0, 1] where it was floats."""
    return (pixels / np.float32(65535)).astype(dtype) if np.issubdtype(dtype, np.floating) else pixels


def _pil_to_srgb(image: Image.Image) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Returns an image in 8-bit sRGB (H, W, 3), and its transparency (H, W) if it has any."""
    if image.mode == "F":
        raise ValueError("a PIL image of mode F has no known white: convert it to RGB or L first")
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I"):  # 16 bits, or 32 that hold 16
        image = Image.fromarray(to_uint8(deep_grey(image)))
    pixels, alpha, _ = image_to_srgb(image, profile, [])
    return pixels, alpha
