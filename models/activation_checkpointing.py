"""Activation checkpointing that updates BatchNorm's running statistics once per batch."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpoint_activations(function: Callable[[Tensor], Tensor], network: nn.Module, x: Tensor) -> Tensor:
    """Returns function(x), storing only x; the backward pass recomputes the activations of this part of `network`."""

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _frozen_statistics(network)

    output: Tensor = checkpoint(function, x, use_reentrant=False, context_fn=contexts)
    return output


@contextmanager
def _frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Lets BatchNorm normalize by the batch, as in training, without updating its running statistics."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    saved = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, num_batches) in zip(norms, saved, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, num_batches
