"""Fused blocks against the plain layers: the same outputs and gradients, in one pass over the gradient."""

import copy
from typing import Any

import pytest
import torch
from photochrom.models import VGGColorizer, bias_relu
from torch import Tensor

# Rounding in float32 turns some ReLUs of the deep layers over: gradients of two exact computations differ by 5 %.
DTYPE = torch.float64


def assert_same(results: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert results.keys() == expected.keys()
    for name in expected:
        error = (results[name] - expected[name]).double().norm() / expected[name].double().norm().clamp_min(1e-3)
        assert error < 1e-10, name


def gradients(model: VGGColorizer, L: Tensor, compute: Any = None) -> dict[str, Tensor]:
    """Returns the output, the gradients of all parameters, and the buffers after a step in training."""
    model = copy.deepcopy(model).train()
    output = (compute or (lambda model, L: model(L).output))(model, L)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    (output * weights).sum().backward()
    named = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {"output": output.detach(), **named, **dict(model.named_buffers())}


def network(*, channels_last: bool, **settings: Any) -> tuple[VGGColorizer, Tensor]:
    torch.manual_seed(0)
    model = VGGColorizer(width=1 / 8, **settings).to(DTYPE)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model, 100 * torch.rand(2, 1, 48, 48, dtype=DTYPE)


@pytest.mark.parametrize("dilation", ["native", "space_to_batch"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_the_whole_network_learns_the_same(channels_last: bool, dilation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, L = network(channels_last=channels_last, dilation=dilation)
    plain = gradients(model, L)
    monkeypatch.setattr(bias_relu, "is_fused", lambda x: True)
    assert_same(gradients(model, L), plain)


@pytest.mark.parametrize("shape", [(2, 8, 4, 8), (1, 16, 3, 5), (3, 2, 5, 7)])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_gradients_are_those_of_finite_differences(shape: tuple[int, ...], memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    bias = torch.randn(shape[1], dtype=torch.float64, requires_grad=True)
    for pack in (False, True):
        torch.autograd.gradcheck(bias_relu._BiasReLU.apply, (x, bias, pack))


def test_the_bias_of_bfloat16_maps_is_summed_in_float32() -> None:
    x = torch.ones(64, 2, 16, 16, dtype=torch.bfloat16).to(memory_format=torch.channels_last).requires_grad_()
    bias = torch.zeros(2, requires_grad=True)
    bias_relu._BiasReLU.apply(x, bias, False).sum().backward()
    assert bias.grad is not None
    assert bias.grad.tolist() == [64 * 256, 64 * 256]  # bfloat16 would stop at 256


def test_a_block_compiles_without_breaks_also_for_other_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bias_relu, "is_fused", lambda x: True)
    model, L = network(channels_last=True)
    compiled = torch.compile(bias_relu.forward_layers, backend="aot_eager", fullgraph=True)
    for x in (L, torch.cat([L, 100 - L, L])[..., :12, :20]):
        results, expected = (
            gradients(model, x, lambda model, x, forward=forward: forward(model.block1, x))
            for forward in (compiled, bias_relu.forward_layers)
        )
        assert_same(results, expected)


def test_layers_run_as_they_are_where_nothing_is_compiled_for_a_gpu() -> None:
    assert not bias_relu.is_fused(torch.zeros(1))


def test_the_last_layer_as_a_sum_is_exact_where_maps_are_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, x = torch.nn.Conv2d(256, 2, 1), torch.randn(2, 256, 6, 5, dtype=torch.bfloat16)
    expected = torch.nn.functional.conv2d(x.double(), layer.weight.double(), layer.bias.double())  # type: ignore[union-attr]
    assert bias_relu.project(layer, x).dtype == torch.float32
    monkeypatch.setattr(bias_relu, "is_fused", lambda x: True)
    assert (bias_relu.project(layer, x) - expected).abs().max() < 1e-5
