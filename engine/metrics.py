"""How far predicted colours are from the true ones, per photograph; each by its published definition."""

# Shapes: B samples, H W pixels. ab in Lab units; rgb is sRGB float32 in [0, 1].

import math

import torch
from torch import Tensor

MAX_ERROR = 150  # the largest threshold of the raw accuracy of Zhang et al.


def mse_ab(predicted: Tensor, true: Tensor) -> Tensor:
    """Mean over pixels and both channels of the squared error of ab (B, 2, H, W), in squared Lab units: (B,)."""
    return (predicted - true).square().mean(dim=(1, 2, 3))


def auc(predicted: Tensor, true: Tensor) -> Tensor:
    """Raw accuracy of Zhang et al. (ECCV 2016), section 3.2, in per cent: (B,).

    The share of pixels whose ab (B, 2, H, W) lies within t of the truth, averaged over t = 0, 1, ..., 150.
    """
    error = (predicted - true).square().sum(dim=1).sqrt()
    # A pixel of error e counts for the thresholds ceil(e) .. 150, which are 151 - ceil(e) of 151.
    return 100 * (MAX_ERROR + 1 - error.ceil()).clamp(min=0).mean(dim=(1, 2)) / (MAX_ERROR + 1)


def psnr(predicted: Tensor, true: Tensor) -> Tensor:
    """Peak signal to noise ratio of rgb (B, 3, H, W) in dB: (B,), infinite for equal pictures."""
    return -10 * (predicted - true).square().mean(dim=(1, 2, 3)).log10()


def ssim(predicted: Tensor, true: Tensor) -> Tensor:
    """Structural similarity of rgb (B, 3, H, W) after Wang et al. (2004): (B,).

    11x11 Gaussian window of sigma 1.5, K = 0.01 and 0.03, mean over channels and over the pixels whose window lies
    inside the picture: as `skimage.metrics.structural_similarity` with gaussian_weights, sigma=1.5 and
    use_sample_covariance=False.
    """
    from kornia.metrics import ssim as kornia_ssim

    return kornia_ssim(predicted, true, window_size=11, max_val=1.0, padding="valid").mean(dim=(1, 2, 3))


def summarize(per_image: dict[str, Tensor]) -> dict[str, float]:
    """The set's figures from those of its photographs, each (N,); all have one number of pixels, so means are pooled.

    `rmse_ab` is the root of the mean `mse_ab`; `psnr` the mean over the photographs that differ from the truth at all.
    """
    means = {name: float(values.double().mean()) for name, values in per_image.items() if name != "mse_ab"}
    differing = per_image["psnr"][~torch.isposinf(per_image["psnr"])]
    return {
        **means,
        "rmse_ab": math.sqrt(float(per_image["mse_ab"].double().mean())),
        "psnr": float(differing.double().mean()) if len(differing) else math.inf,
    }
