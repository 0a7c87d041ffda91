import pytest
import torch
import torch.nn.functional as F
from photochrom.losses import ab_bins, annealed_mean
from photochrom.models import MODELS, VGGColorizer
from torch import Tensor


def small(**settings: object) -> VGGColorizer:
    torch.manual_seed(0)
    return VGGColorizer(**{"width": 0.0625, **settings}).eval()


@pytest.mark.parametrize(
    ("head", "number"),
    [
        # 32,236,011 of the ECCV16 release, less its 1x1 convolutions to 313 bins and to ab, plus 256 x 2 + 2.
        ("ab", 32_155_458),
        # The decoding to ab, 313 x 2 weights there, is a buffer here.
        ("bins", 32_236_011 - 626),
    ],
)
def test_the_published_number_of_parameters(head: str, number: int) -> None:
    assert sum(parameter.numel() for parameter in VGGColorizer(head=head).parameters()) == number


@pytest.mark.parametrize("size", [(64, 64), (256, 128), (8, 8)])
def test_the_output_has_a_quarter_of_the_sides(size: tuple[int, int], device: torch.device) -> None:
    prediction = small().to(device)(torch.rand(2, 1, *size, device=device) * 100)
    assert prediction.output.shape == (2, 2, size[0] // 4, size[1] // 4)
    assert prediction.ab().shape == (2, 2, *size)
    assert prediction.output.dtype == torch.float32


@pytest.mark.parametrize("size", [(37, 51), (1, 1), (9, 64), (65, 66)])
def test_odd_sizes_work(size: tuple[int, int]) -> None:
    prediction = small()(torch.rand(1, 1, *size) * 100)
    assert prediction.output.shape == (1, 2, -(-size[0] // 4), -(-size[1] // 4))
    assert prediction.ab().shape == (1, 2, *size)
    assert prediction.ab((100, 70)).shape == (1, 2, 100, 70)


def test_padding_repeats_the_border() -> None:
    model = small()
    L = torch.rand(1, 1, 37, 51) * 100
    padded = F.pad(L, (0, 5, 0, 3), mode="replicate")
    assert torch.equal(model(L).output, model(padded).output[..., :10, :13])


@pytest.mark.parametrize("preset", ["zhang", "seed"])
def test_the_network_is_that_of_the_paper(preset: str) -> None:
    """Against the layers written out one by one, from the table of eccv16.py."""
    model = small(normalization=preset)
    for module in model.modules():  # running statistics and affine terms other than their defaults
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight, module.bias):
                torch.nn.init.normal_(tensor)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    weights = model.state_dict()

    def convolve(x: Tensor, name: str, stride: int = 1, dilation: int = 1) -> Tensor:
        weight, bias = weights[f"block{name[0]}.conv{name}.weight"], weights[f"block{name[0]}.conv{name}.bias"]
        return F.relu(F.conv2d(x, weight, bias, stride, padding=dilation, dilation=dilation))

    def normalize(x: Tensor, number: int) -> Tensor:
        mean, var, weight, bias = (
            weights[f"block{number}.norm{number}.{name}"][:, None, None]
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    L = torch.rand(1, 1, 64, 48) * 100
    x = (L - 50) / 100 if preset == "zhang" else L / 100
    x = normalize(convolve(convolve(x, "1_1"), "1_2", stride=2), 1)
    x = normalize(convolve(convolve(x, "2_1"), "2_2", stride=2), 2)
    x = normalize(convolve(convolve(convolve(x, "3_1"), "3_2"), "3_3", stride=2), 3)
    x = normalize(convolve(convolve(convolve(x, "4_1"), "4_2"), "4_3"), 4)
    for number in (5, 6):
        for layer in (1, 2, 3):
            x = convolve(x, f"{number}_{layer}", dilation=2)
        x = normalize(x, number)
    x = normalize(convolve(convolve(convolve(x, "7_1"), "7_2"), "7_3"), 7)
    x = F.relu(F.conv_transpose2d(x, weights["block8.conv8_1.weight"], weights["block8.conv8_1.bias"], 2, 1))
    x = F.conv2d(convolve(convolve(x, "8_2"), "8_3"), weights["to_ab.weight"], weights["to_ab.bias"])
    expected = x * 110 if preset == "zhang" else x * 256 - 128
    torch.testing.assert_close(model(L).output, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("head", "channels"), [("ab", 2), ("bins", 313)])
def test_the_output_of_each_head(head: str, channels: int) -> None:
    model = small(head=head)
    prediction = model(torch.rand(2, 1, 37, 48) * 100)
    assert model.head == prediction.head == head
    assert prediction.output.shape == (2, channels, 10, 12)
    assert prediction.grid_ab.shape == (2, 2, 10, 12)
    assert prediction.ab().shape == (2, 2, 37, 48)


def test_the_bins_head_is_decoded_at_the_grid_then_upsampled() -> None:
    model = small(head="bins", temperature=0.7, upsampling="bicubic")
    torch.nn.init.normal_(model.to_bins.weight)
    with torch.no_grad():
        prediction = model(torch.rand(1, 1, 32, 32) * 100)
    cells = annealed_mean(prediction.output, 0.7)
    assert torch.equal(prediction.grid_ab, cells)
    assert torch.equal(prediction.ab(), F.interpolate(cells, scale_factor=4, mode="bicubic"))


def test_the_bins_head_starts_with_equal_probabilities() -> None:
    share = small(head="bins").train()(torch.rand(4, 1, 64, 64) * 100).output.softmax(dim=1)
    torch.testing.assert_close(share, torch.full_like(share, 1 / 313), rtol=0.1, atol=0)


def test_the_centres_are_saved_with_the_model() -> None:
    model = small(head="bins")
    assert torch.equal(model.state_dict()["bins"], ab_bins())
    model.bins += 1  # its own copy, not that of all others
    assert not torch.equal(model.bins, ab_bins())


@pytest.mark.parametrize("preset", ["zhang", "seed"])
def test_training_starts_near_grey(preset: str) -> None:
    ab = small(normalization=preset).train()(torch.rand(4, 1, 64, 64) * 100).output
    assert ab.abs().max() < 5


def test_normalization_is_saved_with_the_model() -> None:
    other = small(normalization="seed")
    other.load_state_dict(small(normalization="zhang").state_dict())
    L = torch.rand(1, 1, 64, 64) * 100
    assert torch.equal(other(L).output, small(normalization="zhang")(L).output)


@pytest.mark.parametrize("head", ["ab", "bins"])
def test_output_stays_float32_under_autocast(head: str, device: torch.device) -> None:
    with torch.autocast(device.type, dtype=torch.bfloat16):
        prediction = small(head=head).to(device)(torch.rand(1, 1, 32, 32, device=device) * 100)
        assert prediction.output.dtype == prediction.ab().dtype == torch.float32


@pytest.mark.parametrize("head", ["ab", "bins"])
def test_every_parameter_learns(head: str) -> None:
    model = small(head=head).train()
    model(torch.rand(2, 1, 64, 64) * 100).output.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("width", [0, -1, 0.001])
def test_a_width_without_channels_is_refused(width: float) -> None:
    with pytest.raises(ValueError, match=f"model.width={width} leaves no channels"):
        VGGColorizer(width=width)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"normalization": "imagenet"}, "normalization='imagenet' is unknown; known are zhang, seed"),
        ({"head": "rgb"}, r"model\.head='rgb' is unknown; known are ab, bins"),
        ({"temperature": -1}, r"model\.temperature=-1 is negative: 0.38 is the paper's, 0 takes the mode"),
        ({"upsampling": "nearest"}, r"model\.upsampling='nearest' is unknown; known are bilinear, bicubic"),
    ],
)
def test_unknown_settings_list_the_known_ones(settings: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        VGGColorizer(**settings)


def test_the_registry_names_classes_by_their_names() -> None:
    assert {name: cls.__name__ for name, cls in MODELS.items()} == {name: name for name in MODELS}
