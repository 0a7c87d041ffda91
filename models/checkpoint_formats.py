"""Weight files of other projects for the same network: their tensor names, and the conversion from and to ours.

Where a convention differs, the weights absorb it, so that a converted model produces the same colours.
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

StateDict = dict[str, Tensor]

# Factor of the logits before the softmax, about 1 / 0.384: conv8_313_rh of colorization_deploy_v2.prototxt.
CAFFE_SCALE = 2.606


class CheckpointFormat(ABC):
    """A project's tensor names and conventions.

    A file has this format if it has the tensor `marker`; `model_args` are arguments of its VGGColorizer. Tensors that
    match the pattern `optional` may be missing; those that match `ignored` are not used.
    """

    marker: ClassVar[str]
    model_args: ClassVar[dict[str, Any]]
    optional: ClassVar[str] = r".*\.num_batches_tracked"
    ignored: ClassVar[str] = r"(?!)"

    def init_args(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Returns the arguments of the VGGColorizer that a file's tensors belong to."""
        shape = tensors[self.marker].shape
        return {"width": shape[0] / 64 if shape else 0.0, **self.model_args}

    def with_optional(self, tensors: Mapping[str, Tensor], model: VGGColorizer) -> StateDict:
        """Returns a file's tensors, with those of the untrained model for missing optional ones."""
        used = {name: tensor for name, tensor in tensors.items() if not re.fullmatch(self.ignored, name)}
        defaults = {name: tensor for name, tensor in self.expected(model).items() if re.fullmatch(self.optional, name)}
        return {**defaults, **used}

    def load(self, model: VGGColorizer, tensors: Mapping[str, Tensor]) -> None:
        """Loads a complete set of tensors into a model."""
        # Only the normalization is not in the file: the model keeps its own.
        model.load_state_dict({**model.state_dict(), **self.to_state_dict(tensors, model)})

    @abstractmethod
    def expected(self, model: VGGColorizer) -> StateDict:
        """Returns tensors of an untrained model under all names of a file."""

    @abstractmethod
    def to_state_dict(self, tensors: Mapping[str, Tensor], model: VGGColorizer) -> StateDict:
        """Returns our state dict of a complete set of a file's tensors."""


class WritableFormat(CheckpointFormat):
    """A format that trained models can be written in; its tensors are those expected in a file."""

    def unsupported(self, model: VGGColorizer) -> str:
        """Returns the reason that a model cannot be written in this format; empty if it can."""
        preset, head = self.model_args["normalization"], self.model_args["head"]
        if model.head != head:
            return (
                f"it stores networks with the head {head}, and this one has {model.head} (train with model.head={head})"
            )
        if not torch.equal(model.normalization.constants.cpu(), Normalization(preset).constants):
            return (
                f"it stores networks with the normalization {preset}, and this one has another (train with "
                f"model.normalization={preset})"
            )
        return "it cannot store a mode, and this model has the temperature 0" if model.temperature == 0 else ""


class Original(WritableFormat):
    """The original project's `model_l2.pt` and `model_l2_focal.pt`, with each layer also under its place in `lin`."""

    marker = "conv1_1.weight"
    model_args: ClassVar = {"normalization": "seed", "head": "ab", "upsampling": "bicubic"}

    def with_optional(self, tensors: Mapping[str, Tensor], model: VGGColorizer) -> StateDict:
        copies = {copy: tensors[key] for key, copy, _ in self._names(model) if key in tensors}
        return {**super().with_optional(tensors, model), **copies, **tensors}

    def expected(self, model: VGGColorizer) -> StateDict:
        state = model.state_dict()
        return {key: state[name] for *keys, name in self._names(model) for key in keys}

    def to_state_dict(self, tensors: Mapping[str, Tensor], model: VGGColorizer) -> StateDict:
        names = list(self._names(model))
        if different := [key for key, copy, _ in names if not torch.equal(tensors[key], tensors[copy])]:
            raise ValueError(f"{different[0]} differs from its copy in lin: the file mixes two models")
        return {name: tensors[key] for key, _, name in names}

    @staticmethod
    def _names(model: VGGColorizer) -> Iterator[tuple[str, str, str]]:
        """Yields each tensor's key in the file, the key of its copy in `lin`, and its name in our state dict."""
        for position, (layer, module) in enumerate(_layers(model)):
            key = layer.rpartition(".")[2].replace("norm", "bn").replace("to_ab", "conv_ab")
            for part in module.state_dict():
                yield f"{key}.{part}", f"lin.{position}.{part}", f"{layer}.{part}"


class Eccv16(WritableFormat):
    """The PyTorch release, `colorization_release_v2-9b330a0b.pth`: `eccv16.py` of richzhang/colorization.

    It decodes by the mean of the plain softmax, with a convolution to ab / 110.
    """

    marker = "model1.0.weight"
    model_args: ClassVar = {"normalization": "zhang", "head": "bins", "temperature": 1.0}

    def expected(self, model: VGGColorizer) -> StateDict:
        state = model.state_dict()
        for name in ("to_bins.weight", "to_bins.bias"):  # logits of the same meaning at temperature 1
            state[name] = state[name] / model.temperature
        tensors = {key: state[name] for key, name in self._names(model)}
        return {**tensors, "model_out.weight": state["bins"].T[..., None, None] / 110}

    def to_state_dict(self, tensors: Mapping[str, Tensor], model: VGGColorizer) -> StateDict:
        bins = tensors["model_out.weight"][..., 0, 0].T * 110
        return {**{name: tensors[key] for key, name in self._names(model)}, "bins": bins}

    @staticmethod
    def _names(model: VGGColorizer) -> Iterator[tuple[str, str]]:
        """Yields each tensor's key in the file and its name in our state dict."""
        position: dict[str, int] = {}
        for layer, module in _layers(model):
            block = "8" if layer == "to_bins" else layer[len("block")]
            index = position[block] = position.get(block, -1) + 1
            for part in module.state_dict():
                yield f"model{block}.{index}.{part}", f"{layer}.{part}"


class CaffeNames(CheckpointFormat):
    """The Caffe release's names in PyTorch, where BatchNorm has running statistics, and gain and bias or not.

    Its input is L - 50, not divided by 100. The centres `class8_ab`, in Lab units, are often filled in by users only.
    """

    marker = "bw_conv1_1.weight"
    model_args: ClassVar = {"normalization": "zhang", "head": "bins", "temperature": 1 / CAFFE_SCALE}
    optional = r".*norm\.(weight|bias|num_batches_tracked)|class8_ab\.weight"
    ignored = r"conv8_313_rh\..*|class8_ab\.bias"

    def expected(self, model: VGGColorizer) -> StateDict:
        state = model.state_dict()
        centres = state["bins"].T[..., None, None]
        return {**{key: state[name] for key, name in self._names(model)}, "class8_ab.weight": centres}

    def to_state_dict(self, tensors: Mapping[str, Tensor], model: VGGColorizer) -> StateDict:
        state = {name: tensors[key] for key, name in self._names(model)}
        state["block1.conv1_1.weight"] = state["block1.conv1_1.weight"] * 100
        centres = tensors["class8_ab.weight"][..., 0, 0].T
        return {**state, "bins": centres if centres.any() else model.bins}

    @staticmethod
    def _names(model: VGGColorizer) -> Iterator[tuple[str, str]]:
        """Yields each tensor's key in the file and its name in our state dict."""
        last_conv = ""
        for layer, module in _layers(model):
            name = layer.rpartition(".")[2]
            if name.startswith("conv"):
                last_conv = name
            name = f"{last_conv}norm" if name.startswith("norm") else name
            name = {"conv1_1": "bw_conv1_1", "to_bins": "conv8_313"}.get(name, name)
            for part in module.state_dict():
                yield f"{name}.{part}", f"{layer}.{part}"


class CaffeBlobs(CaffeNames):
    """The Caffe release as caffemodel2pytorch dumps it: BatchNorm's `weight` is the mean and `bias` the variance.

    Both are sums to be divided by Caffe's third blob, here `scale_factor`, which that tool drops. There are no gain and
    bias.
    """

    optional = r".*norm\.scale_factor|class8_ab\.weight"

    def expected(self, model: VGGColorizer) -> StateDict:
        tensors = super().expected(model)
        for name in _norm_names(tensors):
            del tensors[f"{name}.num_batches_tracked"]
            tensors[f"{name}.weight"] = tensors.pop(f"{name}.running_mean")
            tensors[f"{name}.bias"] = tensors.pop(f"{name}.running_var")
            tensors[f"{name}.scale_factor"] = torch.ones(1)
        return tensors

    def to_state_dict(self, tensors: Mapping[str, Tensor], model: VGGColorizer) -> StateDict:
        named = {name: tensor for name, tensor in tensors.items() if not name.endswith("norm.scale_factor")}
        for name in _norm_names(named):
            mean, var, scale = named[f"{name}.weight"], named[f"{name}.bias"], tensors[f"{name}.scale_factor"]
            divisor = torch.where(scale == 0, 1.0, scale)  # like Caffe's BatchNormLayer
            named |= {
                f"{name}.running_mean": mean / divisor,
                f"{name}.running_var": var / divisor,
                f"{name}.weight": torch.ones_like(mean),
                f"{name}.bias": torch.zeros_like(mean),
                f"{name}.num_batches_tracked": torch.tensor(0),
            }
        return super().to_state_dict(named, model)


WRITABLE: dict[str, WritableFormat] = {"original": Original(), "eccv16": Eccv16()}
FORMATS: dict[str, CheckpointFormat] = {**WRITABLE, "caffe": CaffeBlobs(), "caffe-torch": CaffeNames()}


def find_networks(content: Any) -> dict[str, StateDict]:
    """Returns the tensors of every network of a known format in a checkpoint, by the place where they are.

    A place is the keys that lead to the state dict, and the prefix of its names, as in Lightning's "state_dict/model.".
    """
    markers = {checkpoint_format.marker for checkpoint_format in FORMATS.values()}
    return {
        where + prefix: {key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)}
        for where, tensors in state_dicts(content)
        for name in tensors
        for prefix in (name.removesuffix(marker) for marker in markers if f".{name}".endswith(f".{marker}"))
        if not prefix.endswith("block1.")  # as in our own names
    }


def state_dicts(content: Any, where: str = "", depth: int = 3) -> Iterator[tuple[str, StateDict]]:
    """Yields each state dict in nested dicts and lists, after the keys that lead to it, each with a slash."""
    items = dict(enumerate(content)) if isinstance(content, list | tuple) else content
    if isinstance(items, Mapping):
        if tensors := {str(name): value for name, value in items.items() if isinstance(value, Tensor)}:
            yield where, tensors
        for name, value in items.items() if depth else ():
            yield from state_dicts(value, f"{where}{name}/", depth - 1)


def detect_format(tensors: Mapping[str, Tensor]) -> str:
    """Returns the name of the format of a file's tensors. Raises ValueError for an unknown one."""
    for name, checkpoint_format in FORMATS.items():
        if checkpoint_format.marker in tensors:
            return "caffe-torch" if name == "caffe" and "conv1_2norm.running_mean" in tensors else name
    if any(name.endswith("block1.conv1_1.weight") for name in tensors):
        raise ValueError("its tensors are of a Photochrom network without its settings: name its run or model file")
    first = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in list(tensors.items())[:3])
    known = ", ".join(sorted({checkpoint_format.marker for checkpoint_format in FORMATS.values()}))
    raise ValueError(f"its {len(tensors)} tensors ({first} ...) have no known format, which has one of {known}")


def _layers(model: VGGColorizer) -> Iterator[tuple[str, nn.Module]]:
    """Yields the names in the state dict and modules of all layers in order, also of those without weights."""
    for name, block in model.named_children():
        if isinstance(block, nn.Sequential):
            yield from ((f"{name}.{layer}", module) for layer, module in block.named_children())
        elif not isinstance(block, Normalization):
            yield name, block


def _norm_names(tensors: Mapping[str, Tensor]) -> list[str]:
    return [name.removesuffix(".weight") for name in tensors if name.endswith("norm.weight")]
