"""The class-rebalanced cross-entropy of Zhang et al. (ECCV 2016), eq. 2, for both heads."""

# Shapes: B samples, S pixels, h w cells of the network's output grid, Q = 313 bins, k neighbours. ab in Lab units.

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from .base import Batch, ElementwiseLoss, Prediction, UnreducedLoss, at_least_float32, check_choice
from .quantization import kernel_logits, soft_encode
from .rebalancing import check_prior, is_colorful, load_prior, rebalancing_weights
from .regression import average_cells

Sampling = Literal["mean", "point"]


def soft_cross_entropy(logits: Tensor, index: Tensor, share: Tensor, weight: Tensor | float = 1.0) -> UnreducedLoss:
    """Returns -log p of each of the k bins of a soft target, weighted by its share and the cell's weight.

    `logits` are (B, 313, h, w); `index` and `share` are (B, k, h, w), as `soft_encode` returns them; `weight`
    broadcasts to (B, 1, h, w). It reduces to the mean over the B h w cells. No tensor of the target is 313 wide.
    """
    logits = at_least_float32(logits)
    log_p = logits.gather(1, index) - logits.logsumexp(dim=1, keepdim=True)
    return UnreducedLoss(error=-log_p, distance=-torch.expm1(log_p), weight=share * weight, count=log_p[:, 0].numel())


class RebalancedCrossEntropy(ElementwiseLoss):
    """Cross-entropy of the colours' bins, in which rare colours count more.

    ab of a network with the ab head is converted to logits of the bins by a Gaussian kernel.

    Args:
        prior: The share of each bin: by default the training set's; or a shard set or a .npy of 313 numbers. A shard
            set's prior is softly encoded, and so smooth.
        lam: Weight of the uniform distribution mixed into the prior: 0.5 in the paper; with 1, all colours count alike.
        k: Bins that a true colour is encoded to: 5 in the paper, 10 in the released code.
        sigma: Width of the Gaussian of the encoding, and of the kernel, in Lab units.
        target: The true colour of a cell: 'mean' of its pixels, or 'point', its first pixel, as in the released code.
        skip_grey: Ignores photographs in which no ab value exceeds 5.
    """

    scores_probabilities = True
    class_weights: Tensor

    def __init__(
        self,
        prior: str | list[float] | None = None,
        lam: float = 0.5,
        k: int = 5,
        sigma: float = 5.0,
        target: Sampling = "mean",
        skip_grey: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= lam <= 1:
            raise ValueError(f"loss.lam={lam} is not in [0, 1]: 0.5 is the paper's")
        if not 1 <= k <= 313:
            raise ValueError(f"loss.k={k} is not in 1..313: 5 is the paper's, 10 the released code's")
        if not sigma > 0:
            raise ValueError(f"loss.sigma={sigma} is not positive: 5 is the paper's")
        check_choice("loss.target", target, Sampling)
        self.register_buffer("class_weights", _class_weights(prior, lam))
        self.k = k
        self.sigma = sigma
        self.target = target
        self.skip_grey = skip_grey

    def unreduced(self, prediction: Prediction, batch: Batch) -> UnreducedLoss:
        stride = prediction.stride
        true = average_cells(batch.ab, stride) if self.target == "mean" else batch.ab[..., ::stride, ::stride]
        index, share = soft_encode(true, self.k, self.sigma)
        weight = self.class_weights[index[:, :1]]  # of the nearest bin, which is the most likely one (eq. 3)
        if self.skip_grey:
            weight = weight * is_colorful(batch.ab)[:, None, None, None]
        logits = prediction.output if prediction.head == "bins" else kernel_logits(prediction.output, self.sigma)
        return soft_cross_entropy(logits, index, share, weight)


def _class_weights(prior: str | list[float] | None, lam: float) -> Tensor:
    """Returns the weights (313,) of the bins. Raises ValueError for a missing or invalid prior."""
    if lam == 1:
        return torch.ones(313)
    if prior is None:
        raise ValueError("loss.prior is missing: give the share of each bin, or a file with it, or lam 1")
    shares = load_prior(Path(prior)) if isinstance(prior, str) else check_prior(prior)
    return rebalancing_weights(torch.tensor(shares).double(), lam)
