"""The VGG colorizer of Zhang et al., "Colorful Image Colorization" (ECCV 2016), as published or modified to emit ab."""

# Shapes: B samples, H W pixels, C channels.

import math
from collections import OrderedDict
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses.base import Head, check_choice
from ..losses.quantization import ab_bins
from .activation_checkpointing import checkpoint_activations
from .bias_relu import forward_layers, project
from .colorizer import Colorizer
from .dilation import forward_in_batch, is_faster
from .normalization import Normalization, Preset
from .prediction import ColorPrediction, Upsampling

Dilation = Literal["native", "space_to_batch", "auto"]

_MAX_WIDTH = 1000  # torch cannot address the weights of much wider ones
_STRIDE = 8  # of the deepest features; inputs are padded to multiples of it


class VGGColorizer(Colorizer):
    """The ECCV16 trunk, conv1_1 to conv8_3, and a 1x1 convolution to ab or, as published, to the 313 bins.

    32,155,458 parameters with the ab head at width 1. The output has a quarter of the input's sides.

    Args:
        width: Multiplies the channels of all layers.
        normalization: Input and output of the network: 'zhang', (L - 50) / 100 and ab / 110, as in the ECCV16 release,
            or 'seed', L / 100 and (ab + 128) / 256, as in the original project.
        head: Kind of output: 'ab', colours, or 'bins', a distribution over the 313 ab bins.
        temperature: Temperature of the annealed mean: 0.38 in the paper, 1 takes the mean, 0 the mode.
        upsampling: Interpolation of the colours to the photograph's size, 'bilinear' or 'bicubic'.
        dilation: Way to compute the dilated blocks 5 and 6, to the same result: 'native', 'space_to_batch' as plain
            convolutions of every other pixel, or 'auto', the one that `autotune` measures as faster on a GPU.
    """

    execution = ("dilation",)

    bins: Tensor

    def __init__(
        self,
        width: float = 1.0,
        normalization: Preset = "zhang",
        head: Head = "ab",
        temperature: float = 0.38,
        upsampling: Upsampling = "bilinear",
        dilation: Dilation = "auto",
    ) -> None:
        super().__init__()
        if not 0 < width <= _MAX_WIDTH or round(64 * width) < 1:
            reason = "is too large" if width > _MAX_WIDTH else "leaves no channels"
            raise ValueError(f"model.width={width} {reason}: 1 is the published network, 0.25 a small one")
        check_choice("model.head", head, Head)
        check_choice("model.upsampling", upsampling, Upsampling)
        check_choice("model.dilation", dilation, Dilation)
        if not 0 <= temperature < math.inf:
            reason = "is negative" if temperature < 0 else "is not finite"
            raise ValueError(f"model.temperature={temperature} {reason}: 0.38 is the paper's, 0 takes the mode")
        self.head = head
        self.dilation: Dilation = dilation
        self.temperature = temperature
        self.upsampling: Upsampling = upsampling
        c64, c128, c256, c512 = (round(channels * width) for channels in (64, 128, 256, 512))
        self.normalization = Normalization(normalization)
        self.block1 = _block(1, 1, c64, num_convs=2, stride=2)
        self.block2 = _block(2, c64, c128, num_convs=2, stride=2)
        self.block3 = _block(3, c128, c256, num_convs=3, stride=2)
        self.block4 = _block(4, c256, c512, num_convs=3)
        self.block5 = _block(5, c512, c512, num_convs=3, dilation=2)
        self.block6 = _block(6, c512, c512, num_convs=3, dilation=2)
        self.block7 = _block(7, c512, c512, num_convs=3)
        self.block8 = _Block(
            OrderedDict(
                conv8_1=nn.ConvTranspose2d(c512, c256, 4, stride=2, padding=1),
                relu8_1=nn.ReLU(inplace=True),
                conv8_2=nn.Conv2d(c256, c256, 3, padding=1),
                relu8_2=nn.ReLU(inplace=True),
                conv8_3=nn.Conv2d(c256, c256, 3, padding=1),
                relu8_3=nn.ReLU(inplace=True),
            )
        )
        if head == "ab":
            self.to_ab = nn.Conv2d(c256, 2, 1)
        else:
            self.to_bins = nn.Conv2d(c256, 313, 1)
            self.register_buffer("bins", ab_bins().clone())
        self.reset_parameters()

    @property
    def _last_layer(self) -> nn.Conv2d:
        return self.to_ab if self.head == "ab" else self.to_bins

    def reset_parameters(self) -> None:
        """Initialises by He et al.; the last layer starts near grey, or with nearly equal logits."""
        if self._last_layer.weight.is_meta:  # has no values, and torch would import SymPy, which takes seconds
            return
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        nn.init.normal_(self._last_layer.weight, std=1e-3)
        assert self._last_layer.bias is not None
        nn.init.constant_(self._last_layer.bias, self.normalization.grey if self.head == "ab" else 0)

    def forward(self, L: Tensor) -> ColorPrediction:
        height, width = L.shape[-2:]
        features = self.normalization.encode(_pad(L))
        for block in (self.block1, self.block2, self.block3, self.block4, self._dilated, self.block7, self.block8):
            if self.activation_checkpointing and self.training:
                features = checkpoint_activations(block, self, features)
            else:
                features = block(features)
        with torch.autocast(L.device.type, enabled=False):  # bfloat16 would round ab to steps of up to half a unit
            output = project(self._last_layer, features)
            if self.head == "ab":
                output = self.normalization.decode(output)
        return ColorPrediction(
            output=output[..., : -(-height // 4), : -(-width // 4)],
            input_size=(height, width),
            bins=self.bins if self.head == "bins" else None,
            temperature=self.temperature,
            upsampling=self.upsampling,
        )

    def _dilated(self, features: Tensor) -> Tensor:
        blocks = (self.block5, self.block6)
        height, width = features.shape[-2:]
        if self.dilation == "space_to_batch" and height % 2 == width % 2 == 0:
            return forward_in_batch(blocks, features)
        return self.block6(self.block5(features))

    def autotune(self, L: Tensor, *, compiled: bool = False) -> None:
        height, width = (side // _STRIDE for side in _pad(L).shape[-2:])
        if self.dilation != "auto" or not L.is_cuda or height % 2 or width % 2:  # on a CPU it is 3 to 4 % slower
            return
        weight = next(self.block5.parameters())
        channels_last = weight.is_contiguous(memory_format=torch.channels_last)
        features = torch.randn(len(L), weight.shape[1], height, width, device=L.device)
        features = features.to(
            torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else weight.dtype,
            memory_format=torch.channels_last if channels_last else torch.contiguous_format,
        )
        self.dilation = (
            "space_to_batch" if is_faster((self.block5, self.block6), features, compiled=compiled) else "native"
        )


def _block(number: int, c_in: int, c_out: int, *, num_convs: int, stride: int = 1, dilation: int = 1) -> "_Block":
    """Returns 3x3 convolutions with ReLU, the last one strided, and a BatchNorm, with the names of the paper."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(1, num_convs + 1):
        step = stride if i == num_convs else 1
        layers[f"conv{number}_{i}"] = nn.Conv2d(c_in, c_out, 3, step, padding=dilation, dilation=dilation)
        layers[f"relu{number}_{i}"] = nn.ReLU(inplace=True)
        c_in = c_out
    layers[f"norm{number}"] = nn.BatchNorm2d(c_out)
    return _Block(layers)


class _Block(nn.Sequential):
    """Convolutions, each with a ReLU, and what follows them."""

    def forward(self, x: Tensor) -> Tensor:
        return forward_layers(self, x)


def _pad(L: Tensor) -> Tensor:
    """Returns L with its last row and column repeated until both sides are multiples of the stride."""
    height, width = L.shape[-2:]
    return F.pad(L, (0, -width % _STRIDE, 0, -height % _STRIDE), mode="replicate")
