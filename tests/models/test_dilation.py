from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from photochrom.models import VGGColorizer
from photochrom.models.dilation import batch_to_space, is_faster, space_to_batch
from torch import nn

Tolerances = dict[torch.dtype, dict[str, float]]

FORMATS = [torch.contiguous_format, torch.channels_last]


def small(dilation: str) -> VGGColorizer:
    torch.manual_seed(0)
    return VGGColorizer(width=0.0625, dilation=dilation).double().train()


@pytest.mark.parametrize("memory_format", FORMATS)
def test_a_split_is_joined_again(memory_format: torch.memory_format) -> None:
    x = torch.rand(3, 5, 4, 6).to(memory_format=memory_format)
    phases = space_to_batch(x)
    assert torch.equal(phases[3 * 2 + 1], x[1, :, 1::2, 0::2])
    assert phases.is_contiguous(memory_format=memory_format)
    assert torch.equal(batch_to_space(phases), x)
    assert batch_to_space(phases).is_contiguous(memory_format=memory_format)


def test_a_dilated_convolution_is_a_plain_one_of_every_other_pixel() -> None:
    x, weight = torch.randn(2, 3, 8, 10, dtype=torch.float64), torch.randn(4, 3, 3, 3, dtype=torch.float64)
    dilated = F.conv2d(x, weight, padding=2, dilation=2)
    torch.testing.assert_close(batch_to_space(F.conv2d(space_to_batch(x), weight, padding=1)), dilated)


@pytest.mark.parametrize("size", [(32, 48), (40, 32), (37, 51)])
def test_the_network_learns_the_same(size: tuple[int, int], tolerances: Tolerances) -> None:
    """Colours, gradients and BatchNorm's statistics; odd feature maps are computed natively."""
    native, plain = small("native"), small("space_to_batch")
    L = torch.rand(2, 1, *size, dtype=torch.float64) * 100
    one, other = native(L).output, plain(L).output
    torch.testing.assert_close(other, one, **tolerances[torch.float64])
    for output in (one, other):
        output.square().mean().backward()
    for (name, expected), actual in zip(native.named_parameters(), plain.parameters(), strict=True):
        # Relative to the whole gradient: biases before BatchNorm have one of rounding errors only.
        atol = 1e-11 * expected.grad.abs().max()
        torch.testing.assert_close(actual.grad, expected.grad, rtol=1e-9, atol=atol, msg=name)
    for (name, expected), actual in zip(native.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(actual, expected, **tolerances[torch.float64], msg=name)


def test_plain_convolutions_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    dilations: list[object] = []
    original = F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda *a, **k: dilations.append(a[5] if len(a) > 5 else 1) or original(*a, **k))
    small("space_to_batch")(torch.rand(2, 1, 64, 64, dtype=torch.float64))
    assert len(dilations) == sum(isinstance(module, nn.Conv2d) for module in small("native").modules())
    assert (2, 2) not in dilations


def test_autotune_stays_native_on_a_cpu(device: torch.device) -> None:
    model = VGGColorizer(width=0.0625).to(device)
    before = deepcopy(model.state_dict())
    model.autotune(torch.rand(2, 1, 64, 64, device=device) * 100)
    assert model.dilation == "auto" if device.type == "cpu" else model.dilation in ("native", "space_to_batch")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_timing_changes_no_parameter_and_no_buffer(device: torch.device) -> None:
    model = VGGColorizer(width=0.0625).to(device).train()
    before = deepcopy(model.state_dict())
    assert is_faster((model.block5, model.block6), torch.randn(2, 32, 8, 8, device=device)) in (True, False)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())


def test_both_ways_are_timed_compiled_where_training_is(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = []
    monkeypatch.setattr(torch, "compile", lambda function: timed.append(function) or function)
    model = VGGColorizer(width=0.0625)
    is_faster((model.block5, model.block6), torch.randn(2, 32, 8, 8), compiled=True)
    assert len(timed) == 2


def test_an_unknown_dilation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model.dilation='fast' is unknown; known are native, space_to_batch, auto"):
        VGGColorizer(dilation="fast")
