import torch
from photochrom.models import VGGColorizer
from torch import nn
from torch.autograd.graph import saved_tensors_hooks


def trained(*, activation_checkpointing: bool) -> tuple[VGGColorizer, int]:
    """Returns a model after one step, and the bytes that were stored for its backward pass."""
    torch.manual_seed(0)
    model = VGGColorizer(width=0.0625).double().train()
    model.activation_checkpointing = activation_checkpointing
    num_bytes = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal num_bytes
        num_bytes += tensor.nbytes * (tensor.grad_fn is not None or not isinstance(tensor, nn.Parameter))
        return tensor

    L = torch.rand(2, 1, 64, 64, dtype=torch.float64) * 100
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(L).output
    num_stored = num_bytes
    output.square().mean().backward()
    return model, num_stored


def test_the_network_learns_the_same_with_less_memory() -> None:
    usual, usual_bytes = trained(activation_checkpointing=False)
    recomputed, recomputed_bytes = trained(activation_checkpointing=True)
    assert recomputed_bytes < usual_bytes / 3
    for (name, expected), actual in zip(usual.named_parameters(), recomputed.parameters(), strict=True):
        assert torch.equal(actual.grad, expected.grad), name
    for (name, expected), actual in zip(usual.named_buffers(), recomputed.named_buffers(), strict=True):
        assert torch.equal(actual[1], expected), name


def test_nothing_is_recomputed_in_evaluation() -> None:
    model = VGGColorizer(width=0.0625).eval()
    model.activation_checkpointing = True
    L = torch.rand(1, 1, 32, 32) * 100
    usual = VGGColorizer(width=0.0625).eval()
    usual.load_state_dict(model.state_dict())
    assert torch.equal(model(L).output, usual(L).output)
