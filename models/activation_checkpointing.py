"""Gradient checkpointing: features are computed again when gradients are taken, instead of being kept."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(part: Callable[[Tensor], Tensor], network: nn.Module, x: Tensor) -> Tensor:
    """What `part` of the network makes of x, keeping x alone for the gradients; each batch counts once in BatchNorm."""

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _without_statistics(network)

    output: Tensor = checkpoint(part, x, use_reentrant=False, context_fn=contexts)
    return output


@contextmanager
def _without_statistics(network: nn.Module) -> Iterator[None]:
    """Lets BatchNorm normalize by the batch, as in training, and forget it."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
