"""The same network under the names of other projects: what their weight files hold, from our tensors and back.

Where a convention differs, the weights absorb it: a file in another layout makes the same colours in its own project.
"""

# Shapes: C channels.

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .normalization import Normalization
from .vgg import VGGColorizer

Tensors = dict[str, Tensor]

# Of the logits before the softmax, about 1 / 0.384: conv8_313_rh of colorization_deploy_v2.prototxt.
CAFFE_SCALE = 2.606
_SMALL = 1e-6  # a gain of BatchNorm that counts as this much, since Caffe has none and it must be divided by


class Layout(ABC):
    """One project's way to store the network.

    `first` is a key that tells the layout, `settings` are those of the VGGColorizer it means; keys that match
    `optional` may be absent, those that match `ignored` say nothing.
    """

    first: ClassVar[str]
    settings: ClassVar[dict[str, Any]]
    optional: ClassVar[str] = r".*\.num_batches_tracked"
    ignored: ClassVar[str] = r"(?!)"

    def arguments(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """The arguments of the VGGColorizer that a file's tensors are of."""
        shape = tensors[self.first].shape
        return {"width": shape[0] / 64 if shape else 0.0, **self.settings}

    def complete(self, tensors: Mapping[str, Tensor], model: VGGColorizer) -> Tensors:
        """All tensors that a file in this layout holds, those that it may lack as in the untrained model."""
        held = {name: tensor for name, tensor in tensors.items() if not re.fullmatch(self.ignored, name)}
        absent = {name: tensor for name, tensor in self.write(model).items() if re.fullmatch(self.optional, name)}
        return {**absent, **held}

    def load(self, model: VGGColorizer, tensors: Mapping[str, Tensor]) -> None:
        """Fills a model from a complete set of tensors."""
        # What is left of the model's own is its normalisation.
        model.load_state_dict({**model.state_dict(), **self.read(tensors, model)})

    def misfit(self, model: VGGColorizer) -> str:
        """Why a model cannot be written in this layout; empty when it can."""
        preset = self.settings["normalization"]
        if model.head != self.settings["head"]:
            return f"it is of networks with the head {self.settings['head']}, and this one has {model.head}"
        if not torch.equal(model.normalization.constants.cpu(), Normalization(preset).constants):
            return f"it is of networks with the normalization {preset}, and this one has another"
        return "it knows no mode, and this model has the temperature 0" if model.temperature == 0 else ""

    @abstractmethod
    def write(self, model: VGGColorizer) -> Tensors:
        """The model's tensors as this layout has them."""

    @abstractmethod
    def read(self, tensors: Mapping[str, Tensor], model: VGGColorizer) -> Tensors:
        """Our tensors, by name, that a complete set of theirs stands for."""


class Original(Layout):
    """The original project's `model_l2.pt` and `model_l2_focal.pt`: each layer by name, and again in its sequence."""

    first = "conv1_1.weight"
    settings: ClassVar = {"normalization": "seed", "head": "ab", "upsampling": "bicubic"}

    def complete(self, tensors: Mapping[str, Tensor], model: VGGColorizer) -> Tensors:
        twice = {twin: tensors[name] for name, _, twin in self._names(model) if name in tensors}
        return {**super().complete(tensors, model), **twice, **tensors}

    def write(self, model: VGGColorizer) -> Tensors:
        state = model.state_dict()
        return {key: state[ours] for name, ours, twin in self._names(model) for key in (name, twin)}

    def read(self, tensors: Mapping[str, Tensor], model: VGGColorizer) -> Tensors:
        names = list(self._names(model))
        if different := [name for name, _, twin in names if not torch.equal(tensors[name], tensors[twin])]:
            raise ValueError(f"{different[0]} differs from its twin in lin: the file was put together from two")
        return {ours: tensors[name] for name, ours, _ in names}

    @staticmethod
    def _names(model: VGGColorizer) -> Iterator[tuple[str, str, str]]:
        """Each tensor's name there, here, and there in the sequence."""
        for position, (layer, module) in enumerate(_layers(model)):
            name = _short(layer).replace("norm", "bn").replace("to_ab", "conv_ab")
            for part in module.state_dict():
                yield f"{name}.{part}", f"{layer}.{part}", f"lin.{position}.{part}"


class Eccv16(Layout):
    """The PyTorch release, `colorization_release_v2-9b330a0b.pth`: `eccv16.py` of richzhang/colorization.

    It decodes by the plain softmax's mean, through a convolution to ab / 110.
    """

    first = "model1.0.weight"
    settings: ClassVar = {"normalization": "zhang", "head": "bins", "temperature": 1.0}

    def write(self, model: VGGColorizer) -> Tensors:
        state = _at_temperature(model, 1.0)
        written = {theirs: state[ours] for theirs, ours in self._names(model)}
        return {**written, "model_out.weight": state["bins"].T[..., None, None] / 110}

    def read(self, tensors: Mapping[str, Tensor], model: VGGColorizer) -> Tensors:
        bins = tensors["model_out.weight"][..., 0, 0].T * 110
        return {**{ours: tensors[theirs] for theirs, ours in self._names(model)}, "bins": bins}

    @staticmethod
    def _names(model: VGGColorizer) -> Iterator[tuple[str, str]]:
        position: dict[str, int] = {}
        for layer, module in _layers(model):
            block = "8" if layer == "to_bins" else layer[len("block")]
            index = position[block] = position.get(block, -1) + 1
            for part in module.state_dict():
                yield f"model{block}.{index}.{part}", f"{layer}.{part}"


class CaffeNames(Layout):
    """The Caffe release's names in PyTorch, where BatchNorm has its running statistics and maybe gain and bias.

    It sees L - 50, not divided by 100; the centres `class8_ab`, in Lab units, are often filled in by its users only.
    """

    first = "bw_conv1_1.weight"
    settings: ClassVar = {"normalization": "zhang", "head": "bins", "temperature": 1 / CAFFE_SCALE}
    optional = r".*norm\.(weight|bias|num_batches_tracked)|class8_ab\.weight"
    ignored = r"conv8_313_rh\..*|class8_ab\.bias"

    def write(self, model: VGGColorizer) -> Tensors:
        state = _at_temperature(model, 1 / CAFFE_SCALE)
        written = {theirs: state[ours] for theirs, ours in self._names(model)}
        written[self.first] = written[self.first] / 100
        return {**written, "class8_ab.weight": state["bins"].T[..., None, None]}

    def read(self, tensors: Mapping[str, Tensor], model: VGGColorizer) -> Tensors:
        state = {ours: tensors[theirs] for theirs, ours in self._names(model)}
        state["block1.conv1_1.weight"] = state["block1.conv1_1.weight"] * 100
        centres = tensors["class8_ab.weight"][..., 0, 0].T
        return {**state, "bins": centres if centres.any() else model.bins}

    @staticmethod
    def _names(model: VGGColorizer) -> Iterator[tuple[str, str]]:
        before = ""
        for layer, module in _layers(model):
            short = _short(layer)
            name = {"conv1_1": "bw_conv1_1", "to_bins": "conv8_313"}.get(short, short)
            if short.startswith("conv"):
                before = short
            for part in module.state_dict():
                yield f"{f'{before}norm' if short.startswith('norm') else name}.{part}", f"{layer}.{part}"


class CaffeBlobs(CaffeNames):
    """The Caffe release as caffemodel2pytorch dumps it: of BatchNorm, `weight` is the mean and `bias` the variance.

    Both are sums still to be divided by Caffe's third blob, here `scale_factor`, which that tool drops. There is no
    gain and no bias: what a model has of them goes into the next layer's weights and into the mean.
    """

    optional = r".*norm\.scale_factor|class8_ab\.weight"

    def write(self, model: VGGColorizer) -> Tensors:
        written = super().write(model)
        norms = [name for name in written if name.endswith("norm.weight")]
        followers = ["conv2_1", "conv3_1", "conv4_1", "conv5_1", "conv6_1", "conv7_1", "conv8_1"]
        for name, after in zip((name.removesuffix(".weight") for name in norms), followers, strict=True):
            gain, bias = written.pop(f"{name}.weight"), written.pop(f"{name}.bias")
            mean, var = written.pop(f"{name}.running_mean"), written.pop(f"{name}.running_var")
            del written[f"{name}.num_batches_tracked"]
            gain = torch.where(gain.abs() < _SMALL, _SMALL, gain)
            written[f"{name}.weight"] = mean - bias / gain * (var + nn.BatchNorm2d(1).eps).sqrt()
            written[f"{name}.bias"] = var
            written[f"{name}.scale_factor"] = torch.ones(1)
            inputs = (-1, 1, 1, 1) if after == "conv8_1" else (1, -1, 1, 1)  # a transposed convolution's come first
            written[f"{after}.weight"] = written[f"{after}.weight"] * gain.view(inputs)
        return written

    def read(self, tensors: Mapping[str, Tensor], model: VGGColorizer) -> Tensors:
        plain = {name: tensor for name, tensor in tensors.items() if not name.endswith("norm.scale_factor")}
        for name in [name.removesuffix(".weight") for name in plain if name.endswith("norm.weight")]:
            mean, var, scale = plain[f"{name}.weight"], plain[f"{name}.bias"], tensors[f"{name}.scale_factor"]
            divisor = torch.where(scale == 0, 1.0, scale)  # as Caffe's BatchNormLayer does
            plain |= {
                f"{name}.running_mean": mean / divisor,
                f"{name}.running_var": var / divisor,
                f"{name}.weight": torch.ones_like(mean),
                f"{name}.bias": torch.zeros_like(mean),
                f"{name}.num_batches_tracked": torch.tensor(0),
            }
        return super().read(plain, model)


LAYOUTS: dict[str, Layout] = {
    "original": Original(),
    "eccv16": Eccv16(),
    "caffe": CaffeBlobs(),
    "caffe-torch": CaffeNames(),
}


def recognise(tensors: Mapping[str, Tensor]) -> str:
    """The name of the layout that a file's tensors are in. Raises ValueError when it is none that is known."""
    for name, layout in LAYOUTS.items():
        if layout.first in tensors:
            return "caffe-torch" if name == "caffe" and "conv1_2norm.running_mean" in tensors else name
    shown = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in list(tensors.items())[:3])
    wanted = ", ".join(sorted({layout.first for layout in LAYOUTS.values()}))
    raise ValueError(f"its {len(tensors)} tensors ({shown} ...) are of no known layout: one of {wanted} is wanted")


def _layers(model: VGGColorizer) -> Iterator[tuple[str, nn.Module]]:
    """All layers in order, those without weights too, by their names in the state dict."""
    for name, block in model.named_children():
        if isinstance(block, nn.Sequential):
            yield from ((f"{name}.{layer}", module) for layer, module in block.named_children())
        elif not isinstance(block, Normalization):
            yield name, block


def _short(layer: str) -> str:
    return layer.rpartition(".")[2]


def _at_temperature(model: VGGColorizer, temperature: float) -> Tensors:
    """The state dict with logits that at another temperature mean what the model's do at its own."""
    state = model.state_dict()
    factor = temperature / model.temperature
    return {name: tensor * factor if name.startswith("to_bins.") else tensor for name, tensor in state.items()}
