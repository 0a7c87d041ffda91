"""Each project's network, written out here from its own source, makes the same colours from the same weights."""

import re
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from photochrom.losses import ab_bins
from photochrom.models import VGGColorizer
from photochrom.models.checkpoint_formats import FORMATS, WRITABLE, detect_format
from torch import Tensor, nn

WIDTH = 0.125


Tensors = dict[str, Tensor]
Network = Callable[[Tensor], Tensor]


def widths() -> tuple[int, int, int, int]:
    return tuple(int(channels * WIDTH) for channels in (64, 128, 256, 512))


class OriginalNetwork(nn.Module):
    """models/colorization_deploy_v1.py of Pedromacedo41/DLimage_colorization; sees L / 100, makes (ab + 128) / 256."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d = widths()
        self.conv1_1 = nn.Conv2d(1, a, kernel_size=3, stride=1, padding=1)
        self.conv1_2 = nn.Conv2d(a, a, kernel_size=3, stride=2, padding=1)
        self.conv2_1 = nn.Conv2d(a, b, kernel_size=3, stride=1, padding=1)
        self.conv2_2 = nn.Conv2d(b, b, kernel_size=3, stride=2, padding=1)
        self.conv3_1 = nn.Conv2d(b, c, kernel_size=3, stride=1, padding=1)
        self.conv3_2 = nn.Conv2d(c, c, kernel_size=3, stride=1, padding=1)
        self.conv3_3 = nn.Conv2d(c, c, kernel_size=3, stride=2, padding=1)
        self.conv4_1 = nn.Conv2d(c, d, kernel_size=3, stride=1, padding=1)
        for block, dilation in ((4, 1), (5, 2), (6, 2), (7, 1)):
            for layer in (1, 2, 3):
                if (block, layer) != (4, 1):
                    conv = nn.Conv2d(d, d, kernel_size=3, stride=1, dilation=dilation, padding=dilation)
                    setattr(self, f"conv{block}_{layer}", conv)
        self.conv8_1 = nn.ConvTranspose2d(d, c, kernel_size=4, stride=2, padding=1)
        self.conv8_2 = nn.Conv2d(c, c, kernel_size=3, stride=1, padding=1)
        self.conv8_3 = nn.Conv2d(c, c, kernel_size=3, stride=1, padding=1)
        self.conv_ab = nn.Conv2d(c, 2, kernel_size=1, stride=1)
        for block, channels in enumerate((a, b, c, d, d, d, d), start=1):
            setattr(self, f"bn{block}", nn.BatchNorm2d(channels))
        layers: list[nn.Module] = []
        for block in range(1, 9):
            for layer in (1, 2) if block <= 2 else (1, 2, 3):
                layers += [getattr(self, f"conv{block}_{layer}"), nn.ReLU()]
            layers += [getattr(self, f"bn{block}")] if block < 8 else [self.conv_ab]
        self.lin = nn.Sequential(*layers, nn.Upsample(scale_factor=4, mode="bicubic"))

    def forward(self, L: Tensor) -> Tensor:
        return self.lin(L / 100) * 256 - 128


class Eccv16Network(nn.Module):
    """colorizers/eccv16.py of richzhang/colorization."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d = widths()

        def block(*channels: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
            layers: list[nn.Module] = []
            for i, (before, after) in enumerate(pairwise(channels)):
                step = stride if i == len(channels) - 2 else 1
                layers.append(nn.Conv2d(before, after, 3, step, dilation, dilation, bias=True))
                layers.append(nn.ReLU(True))
            return nn.Sequential(*layers, nn.BatchNorm2d(channels[-1]))

        self.model1 = block(1, a, a, stride=2)
        self.model2 = block(a, b, b, stride=2)
        self.model3 = block(b, c, c, c, stride=2)
        self.model4 = block(c, d, d, d)
        self.model5 = block(d, d, d, d, dilation=2)
        self.model6 = block(d, d, d, d, dilation=2)
        self.model7 = block(d, d, d, d)
        self.model8 = nn.Sequential(
            nn.ConvTranspose2d(d, c, kernel_size=4, stride=2, padding=1, bias=True),
            nn.ReLU(True),
            nn.Conv2d(c, c, kernel_size=3, stride=1, padding=1, bias=True),
            nn.ReLU(True),
            nn.Conv2d(c, c, kernel_size=3, stride=1, padding=1, bias=True),
            nn.ReLU(True),
            nn.Conv2d(c, 313, kernel_size=1, stride=1, padding=0, bias=True),
        )
        self.softmax = nn.Softmax(dim=1)
        self.model_out = nn.Conv2d(313, 2, kernel_size=1, padding=0, dilation=1, stride=1, bias=False)
        self.upsample4 = nn.Upsample(scale_factor=4, mode="bilinear")

    def forward(self, L: Tensor) -> Tensor:
        x = (L - 50) / 100
        for number in range(1, 9):
            x = getattr(self, f"model{number}")(x)
        return self.upsample4(self.model_out(self.softmax(x))) * 110


def caffe_layers() -> list[tuple[str, str]]:
    """models/colorization_deploy_v2.prototxt: kind and name, in order."""
    layers = []
    for block in range(1, 8):
        names = [f"conv{block}_{i}" for i in ((1, 2) if block <= 2 else (1, 2, 3))]
        layers += [("conv", "bw_conv1_1" if name == "conv1_1" else name) for name in names]
        layers.append(("norm", f"{names[-1]}norm"))
    return [*layers, ("deconv", "conv8_1"), ("conv", "conv8_2"), ("conv", "conv8_3"), ("conv", "conv8_313")]


def caffe_network(weights: Tensors, L: Tensor) -> Tensor:
    """The prototxt's net on L - 50; BatchNorm of PyTorch where there are running statistics, else of Caffe's blobs."""
    x = L - 50
    for kind, name in caffe_layers():
        weight, bias = weights.get(f"{name}.weight"), weights.get(f"{name}.bias")
        if kind == "norm" and f"{name}.running_mean" in weights:
            x = F.batch_norm(x, weights[f"{name}.running_mean"], weights[f"{name}.running_var"], weight, bias)
        elif kind == "norm":
            factor = weights.get(f"{name}.scale_factor", torch.ones(1)).item()
            factor = 0.0 if factor == 0 else 1 / factor
            mean, var = (blob[:, None, None] * factor for blob in (weight, bias))
            x = (x - mean) / torch.sqrt(var + 1e-5)
        elif kind == "deconv":
            x = F.relu(F.conv_transpose2d(x, weight, bias, stride=2, padding=1))
        elif name == "conv8_313":
            x = F.conv2d(x, weight, bias)
        else:
            dilation = 2 if name[:5] in ("conv5", "conv6") else 1
            stride = 2 if name in ("conv1_2", "conv2_2", "conv3_3") else 1
            x = F.relu(F.conv2d(x, weight, bias, stride=stride, padding=dilation, dilation=dilation))
    centres = ab_bins().to(x.dtype).T[..., None, None]
    return F.interpolate(F.conv2d(torch.softmax(2.606 * x, dim=1), centres), scale_factor=4, mode="bilinear")


def randomize(tensors: Tensors) -> Tensors:
    """Weights that keep signals and colours of a natural size, statistics and gains other than their defaults."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in tensors.items():
        if name.endswith(("running_var", "norm.bias")) or (name.endswith(".weight") and tensor.ndim == 1):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.ndim == 4 and not name.startswith("model_out"):
            gain = 2 if tensor.shape[-1] > 1 else 4
            tensor.normal_(std=(gain / (tensor[0].numel())) ** 0.5, generator=generator)
        elif tensor.is_floating_point() and not name.startswith("model_out"):
            tensor.normal_(std=0.2, generator=generator)
    return tensors


# In float64: what differs is then no rounding, of which softmaxes at a low temperature make much.


def original() -> tuple[Tensors, Network]:
    network = OriginalNetwork().double().eval()
    randomize(network.state_dict())
    network.conv_ab.weight.data /= 100
    network.conv_ab.bias.data += 0.5
    return network.state_dict(), network


def eccv16() -> tuple[Tensors, Network]:
    network = Eccv16Network().double().eval()
    randomize(network.state_dict())
    network.model_out.weight.data = ab_bins().double().T[..., None, None] / 110
    return network.state_dict(), network


def caffe(*, blobs: bool) -> tuple[Tensors, Network]:
    modules = list(Eccv16Network().double().modules())
    norms = (module for module in modules if isinstance(module, nn.BatchNorm2d))
    convs = (module for module in modules if isinstance(module, nn.Conv2d | nn.ConvTranspose2d))
    weights: Tensors = {}
    for kind, name in caffe_layers():
        module = next(norms) if kind == "norm" else next(convs)
        parts = ["weight", "bias"] + ["running_mean", "running_var"] * (kind == "norm" and not blobs)
        weights |= {f"{name}.{part}": module.state_dict()[part] for part in parts}
    randomize(weights)
    weights["bw_conv1_1.weight"] /= 50
    return weights, lambda L: caffe_network(weights, L)


SOURCES: dict[str, Callable[[], tuple[Tensors, Network]]] = {
    "original": original,
    "eccv16": eccv16,
    "caffe": lambda: caffe(blobs=True),
    "caffe-torch": lambda: caffe(blobs=False),
}


def read(tensors: Tensors, name: str) -> VGGColorizer:
    source_format = FORMATS[name]
    model = VGGColorizer(**source_format.init_args(tensors)).double().eval()
    source_format.load(model, source_format.with_optional(tensors, model))
    return model


def photograph() -> Tensor:
    return torch.rand(2, 1, 64, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 100


@pytest.mark.parametrize("name", FORMATS)
@torch.inference_mode()
def test_a_model_read_from_a_format_makes_the_colours_of_its_source(name: str) -> None:
    tensors, network = SOURCES[name]()
    assert detect_format(tensors) == name
    expected = network(photograph())
    assert 10 < expected.abs().max() < 1000, "colours that would show a mistake"
    torch.testing.assert_close(read(tensors, name)(photograph()).ab(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", WRITABLE)
@torch.inference_mode()
def test_a_written_model_makes_the_same_colours_there(name: str) -> None:
    """Writes a model with a temperature and gains of its own for the network of the other project."""
    tensors, _ = SOURCES[name]()
    model = read(tensors, name)
    model.block3.norm3.weight[:3] *= -1
    model.block4.norm4.weight[0] = 0
    if name != "original":
        model.temperature = 0.5
    written = {key: tensor.clone() for key, tensor in WRITABLE[name].expected(model).items()}
    network = SOURCES[name]()[1]
    network.load_state_dict(written)
    torch.testing.assert_close(network(photograph()), model(photograph()).ab(), rtol=0, atol=1e-4)
    torch.testing.assert_close(read(written, name)(photograph()).ab(), model(photograph()).ab(), rtol=0, atol=1e-4)


def test_the_keys_of_the_release() -> None:
    written = WRITABLE["eccv16"].expected(VGGColorizer(head="bins"))
    assert len(written) == 82
    parameters = sum(tensor.numel() for key, tensor in written.items() if not re.search("running|num_batches", key))
    assert parameters == 32_236_011
    assert sum(tensor.numel() * tensor.element_size() for tensor in written.values()) == 128_964_068
    assert written["model8.6.weight"].shape == (313, 256, 1, 1)
    assert written["model_out.weight"].shape == (2, 313, 1, 1)


def test_caffe_s_third_blob_divides_the_other_two() -> None:
    tensors, _ = caffe(blobs=True)
    expected = read(tensors, "caffe").state_dict()
    for name in [key.removesuffix(".weight") for key in tensors if key.endswith("norm.weight")]:
        factor = 0.0 if name == "conv1_2norm" else 999.98  # 0 counts as 1
        tensors[f"{name}.scale_factor"] = torch.tensor([factor], dtype=torch.float64)
        for part in ("weight", "bias"):
            tensors[f"{name}.{part}"] *= factor or 1
    for name, tensor in read(tensors, "caffe").state_dict().items():
        torch.testing.assert_close(tensor, expected[name])


def test_empty_centres_of_caffe_are_the_bins() -> None:
    tensors, _ = caffe(blobs=True)
    for given in ({}, {"class8_ab.weight": torch.zeros(2, 313, 1, 1)}):
        assert torch.equal(read({**tensors, **given}, "caffe").bins, ab_bins().double())
    shifted = (ab_bins() + 1).double().T[..., None, None]
    assert torch.equal(read({**tensors, "class8_ab.weight": shifted}, "caffe").bins, ab_bins().double() + 1)


def test_copies_that_differ_are_refused() -> None:
    tensors, _ = original()
    tensors["lin.0.weight"] = tensors["lin.0.weight"] + 1
    with pytest.raises(ValueError, match=r"conv1_1\.weight differs from its copy in lin"):
        read(tensors, "original")


def test_copies_may_be_missing() -> None:
    tensors, network = original()
    single = {name: tensor for name, tensor in tensors.items() if not name.startswith("lin.")}
    torch.testing.assert_close(read(single, "original")(photograph()).ab(), network(photograph()))


def test_an_unknown_format_is_described() -> None:
    with pytest.raises(
        ValueError, match=r"its 1 tensors \(a\.weight \[3\] .* have no known format, which has one of bw_conv"
    ):
        detect_format({"a.weight": torch.zeros(3)})


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("eccv16", {"head": "ab"}, "it stores networks with the head bins, and this one has ab"),
        ("original", {"head": "bins"}, "it stores networks with the head ab, and this one has bins"),
        ("original", {"normalization": "zhang"}, "with the normalization seed, and this one has another"),
        ("eccv16", {"head": "bins", "normalization": "seed"}, "with the normalization zhang, and this one has another"),
        ("eccv16", {"head": "bins", "temperature": 0}, "it cannot store a mode, and this model has the temperature 0"),
        ("eccv16", {"head": "bins"}, None),
        ("original", {"normalization": "seed"}, None),
    ],
)
def test_models_that_a_format_cannot_store(name: str, settings: dict, sentence: str | None) -> None:
    reason = WRITABLE[name].unsupported(VGGColorizer(width=0.0625, **settings))
    assert reason == "" if sentence is None else sentence in reason
