"""A trained model as people use it: with the metadata that made it, and for pictures of all kinds."""

# Shapes: B samples, H W pixels.

import os
from itertools import chain
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms
from torch import Tensor

from ..models import Colorizer, ColorPrediction
from ..pipelines.imaging.decode import deep_grey, to_srgb
from .checkpoints.model_file import ModelMetadata, load_with_metadata
from .colorization.colorize import Pixels, colorize
from .colorization.pixels import in_8_bit
from .distributed import resolve_device

Picture = TypeVar("Picture", Image.Image, NDArray[Any], Tensor)
Size = int | Literal["native"] | None

_NEAR = 1e-3  # beyond [0, 1], where resizing can leave a float
_MODES = {"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LA", "PA", "La", "RGBA", "RGBa"}
_SMALLEST = 8  # side at which a network can see a picture


def load(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> "TrainedColorizer":
    """Returns the trained model in a run folder, a checkpoint or a model file, in evaluation mode.

    `model(L)` returns a ColorPrediction and `model.colorize(image)` an image; `model.network` is the network alone and
    `model.metadata` says how it was trained. Nothing in the file is executed: import the module of a class of your own
    before. Raises ValueError when there is no model at `path`, it cannot be built, or there is no such device.
    """
    if str(device).startswith("cuda"):
        resolve_device("cuda")  # raises when there is none
    return TrainedColorizer(*load_with_metadata(path, device)).eval()


class TrainedColorizer(Colorizer):
    """A network with the metadata that it was trained by; what it predicts is the network's own."""

    def __init__(self, network: Colorizer, metadata: ModelMetadata) -> None:
        super().__init__()
        self.network, self.metadata = network, metadata
        self.head = network.head

    def forward(self, L: Tensor) -> ColorPrediction:
        prediction: ColorPrediction = self.network(L)
        return prediction

    def autotune(self, L: Tensor) -> None:
        self.network.autotune(L)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        tensor = next(chain(self.network.parameters(), self.network.buffers()), None)
        return torch.device("cpu") if tensor is None else tensor.device

    def colorize(self, image: Picture, size: Size = None) -> Picture:
        """The picture in the network's colours and its own lightness, as whatever it was given as.

        A PIL image becomes one in RGB, or RGBA with its transparency, its colours brought to sRGB by its profile; a
        NumPy array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), of which the fourth channel is not looked at, (H, W, 3);
        a tensor (C, H, W) or (B, C, H, W), C being 1 or 3, one with 3 channels. Arrays and tensors are sRGB, in uint8,
        uint16 or floats in [0, 1], and stay of their type; tensors come back to their device, without gradients.

        The network sees it with a short side of `size` pixels, never enlarged; by default that of its training, and
        with "native" as large as it is. Raises TypeError or ValueError for what is no such picture.

        >>> photochrom.load("runs/first").colorize(Image.open("old.jpg")).save("new.jpg")
        """
        if size not in (None, "native") and (not isinstance(size, int) or size < _SMALLEST):
            raise ValueError(f'size={size!r} is no side from {_SMALLEST} pixels on, and not "native"')
        seen = self.metadata.size if size is None else None if size == "native" else size
        if isinstance(image, Image.Image):
            return self._of_pil(image, seen)
        if isinstance(image, np.ndarray):
            return self._of_array(image, seen)
        if isinstance(image, Tensor):
            return self._of_tensor(image, seen)
        raise TypeError(f"a {type(image).__name__} is no picture: give a PIL image, a NumPy array or a tensor")

    def _colored(self, pictures: list[Pixels], size: int | None) -> list[Pixels]:
        return [colored.pixels for colored in colorize(self, pictures, size=size, device=self.device)]

    def _of_pil(self, image: Image.Image, size: int | None) -> Image.Image:
        rgb, alpha = _rgb_and_alpha(image)
        (pixels,) = self._colored([np.array(rgb)], size)
        result = Image.fromarray(pixels)
        if alpha is not None:
            result.putalpha(alpha)
        # What Pillow can write back, and the orientation; not the profile, since the colours are sRGB's.
        result.info = {key: value for key, value in image.info.items() if key in ("exif", "dpi", "xmp")}
        return result

    def _of_array(self, image: NDArray[Any], size: int | None) -> NDArray[Any]:
        layers = image[..., None] if image.ndim == 2 else image
        if layers.ndim != 3 or layers.shape[2] not in (1, 3, 4) or 0 in layers.shape:
            raise ValueError(f"an array {image.shape} is no picture (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
        (pixels,) = self._colored([_integers(layers[..., :3])], size)
        return _as(pixels, image.dtype)

    def _of_tensor(self, image: Tensor, size: int | None) -> Tensor:
        batch = image[None] if image.ndim == 3 else image
        if batch.ndim != 4 or batch.shape[1] not in (1, 3) or 0 in batch.shape:
            raise ValueError(
                f"a tensor {tuple(image.shape)} is no picture (3, H, W) or (1, H, W), nor a batch (B, 3, H, W) or "
                "(B, 1, H, W)"
            )
        if batch.dtype == torch.bfloat16:  # which NumPy does not know
            return self._of_tensor(image.float(), size).bfloat16()
        arrays = batch.detach().cpu().permute(0, 2, 3, 1).numpy()
        colored = [_as(pixels, arrays.dtype) for pixels in self._colored([_integers(array) for array in arrays], size)]
        tensor = torch.from_numpy(np.stack(colored)).permute(0, 3, 1, 2).contiguous().to(image.device)
        return tensor[0] if image.ndim == 3 else tensor


def _integers(layers: NDArray[Any]) -> Pixels:
    """Of sRGB, or grey, (H, W, C) in any type, (H, W, 3) in 8 bits if it has them, else in 16."""
    if np.issubdtype(layers.dtype, np.floating):
        if not (layers.min() >= -_NEAR and layers.max() <= 1 + _NEAR):  # nor nan
            raise ValueError(
                f"floats from {layers.min():g} to {layers.max():g} are no picture, which has them in [0, 1]: divide "
                "by the value of white"
            )
        layers = (layers.astype(np.float32).clip(0, 1) * 65535).round().astype(np.uint16)
    if layers.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"{layers.dtype} is no type of pictures: give uint8, uint16 or floats in [0, 1]")
    return np.array(np.broadcast_to(layers, (*layers.shape[:2], 3)))


def _as(pixels: Pixels, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The pixels in the type that a picture came in."""
    return (pixels / np.float32(65535)).astype(dtype) if np.issubdtype(dtype, np.floating) else pixels


def _rgb_and_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """The picture in 8-bit sRGB, and its transparency if it has any."""
    if image.mode.startswith("I"):  # 16 bits, or 32 that hold 16
        return Image.fromarray(in_8_bit(deep_grey(image))).convert("RGB"), None
    if image.mode not in _MODES:
        raise ValueError(f"a PIL image of mode {image.mode} has no known white: convert it to RGB or L first")
    if image.mode == "La":  # which knows the way to LA alone
        image = image.convert("LA")
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    if profile := image.info.get("icc_profile"):
        image = image if image.mode == "CMYK" else image.convert("RGB")
        if transform := to_srgb(profile, image.mode):
            return ImageCms.applyTransform(image, transform) or image, alpha
    return image.convert("RGB"), alpha
