"""The class-rebalanced cross-entropy of Zhang et al. (ECCV 2016), eq. 2, for networks of either head."""

# Shapes: B samples, S pixels, h w cells of the network's output grid, Q = 313 bins, k neighbours. ab in Lab units.

from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from .base import Batch, ElementLoss, Elements, Prediction, at_least_float32
from .quantization import kernel_logits, soft_encode
from .rebalancing import check_prior, is_colourful, load_prior, rebalancing_weights, smooth_prior
from .resolution import cell_means

Sampling = Literal["mean", "point"]


def cross_entropy_elements(logits: Tensor, index: Tensor, share: Tensor, weight: Tensor | float = 1.0) -> Elements:
    """-log p of each of the k bins of a soft target, weighted by its share and by the cell's weight.

    `logits` are (B, 313, h, w); `index` and `share` (B, k, h, w), as `soft_encode` gives them; `weight` broadcasts to
    (B, 1, h, w). The total is the mean over the B h w cells. The target is never spread over the 313 bins.
    """
    logits = at_least_float32(logits)
    log_p = logits.gather(1, index) - logits.logsumexp(dim=1, keepdim=True)
    return Elements(
        error=-log_p,
        distance=-torch.expm1(log_p),
        weight=share * weight,
        count=log_p[:, 0].numel(),
    )


class RebalancedCrossEntropy(ElementLoss):
    """Cross-entropy of the colours' bins, in which rare colours count more.

    A network that emits ab is scored by the bins that its colours stand for, through a Gaussian kernel.

    Args:
        prior: The share of each bin in the training set, which is the default; or in another shard set, or in a .npy of
            313 numbers. A shard set's is softly encoded, which is what smoothes it.
        lam: Weight of the uniform distribution mixed into the prior: 0.5 in the paper; at 1, all colours count alike.
        k: Bins that a true colour is encoded to, 5 in the paper, 10 in the released code.
        sigma: Width of the Gaussian of encoding, and of the kernel, in Lab units.
        smoothing: Width in Lab units of a Gaussian that smoothes the prior, for one that was counted bin by bin.
        target: The true colour of a cell: 'mean' of its pixels, or 'point', its first pixel, as in the released code.
        skip_grey: Leaves pictures without colour out, in which no ab value exceeds 5.
    """

    scores_probabilities = True
    class_weights: Tensor

    def __init__(
        self,
        prior: str | list[float] | None = None,
        lam: float = 0.5,
        k: int = 5,
        sigma: float = 5.0,
        smoothing: float = 0.0,
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
        if not smoothing >= 0:
            raise ValueError(f"loss.smoothing={smoothing} is negative: 5 is the paper's, 0 leaves the prior as it is")
        if target not in get_args(Sampling):
            raise ValueError(f"loss.target={target!r} is unknown; known are {', '.join(get_args(Sampling))}")
        self.register_buffer("class_weights", _class_weights(prior, lam, smoothing))
        self.k = k
        self.sigma = sigma
        self.target = target
        self.skip_grey = skip_grey

    def elements(self, prediction: Prediction, batch: Batch) -> Elements:
        stride = prediction.stride
        true = cell_means(batch.ab, stride) if self.target == "mean" else batch.ab[..., ::stride, ::stride]
        index, share = soft_encode(true, self.k, self.sigma)
        weight = self.class_weights[index[:, :1]]  # of the nearest bin, the likeliest one (eq. 3)
        if self.skip_grey:
            weight = weight * is_colourful(batch.ab)[:, None, None, None]
        logits = prediction.output if prediction.head == "bins" else kernel_logits(prediction.output, self.sigma)
        return cross_entropy_elements(logits, index, share, weight)


def _class_weights(prior: str | list[float] | None, lam: float, smoothing: float) -> Tensor:
    """The weights (313,) of the bins; raises ValueError for a prior that is missing or none."""
    if lam == 1:
        return torch.ones(313)
    if prior is None:
        raise ValueError("loss.prior is missing: give the share of each bin, or a file that says it, or lam 1")
    shares = torch.tensor(load_prior(Path(prior)) if isinstance(prior, str) else check_prior(prior)).double()
    return rebalancing_weights(smooth_prior(shares, smoothing) if smoothing else shares, lam)
