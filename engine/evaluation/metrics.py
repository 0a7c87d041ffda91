"""Metrics of predicted colours, per photograph, by their published definitions."""

# Shapes: B samples, H W pixels. ab is in Lab units; rgb is sRGB float32 in [0, 1].

from torch import Tensor

from ...pipelines.imaging.kornia_constants import kornia_constants

MAX_ERROR = 150  # the largest threshold of the raw accuracy of Zhang et al.


def mse_ab(predicted: Tensor, true: Tensor) -> Tensor:
    """Returns the mean squared error of ab (B, 2, H, W) over pixels and both channels, in squared Lab units: (B,)."""
    return (predicted - true).square().mean(dim=(1, 2, 3))


def auc(predicted: Tensor, true: Tensor, weight: Tensor | None = None) -> Tensor:
    """Returns the raw accuracy of Zhang et al. (ECCV 2016), section 3.2, in per cent: (B,).

    It is the share of pixels whose ab (B, 2, H, W) lies within t of the truth, averaged over t = 0, 1, ..., 150. With a
    `weight` (B, H, W) per pixel, it is the paper's class-rebalanced variant.
    """
    error = (predicted - true).square().sum(dim=1).sqrt()
    # A pixel of error e counts for the thresholds ceil(e) .. 150, which are 151 - ceil(e) of 151.
    accuracy = 100 * (MAX_ERROR + 1 - error.ceil()).clamp(min=0) / (MAX_ERROR + 1)
    if weight is None:
        return accuracy.mean(dim=(1, 2))
    return (weight * accuracy).sum(dim=(1, 2)) / weight.sum(dim=(1, 2))


def psnr(predicted: Tensor, true: Tensor) -> Tensor:
    """Returns the peak signal-to-noise ratio of rgb (B, 3, H, W) in dB: (B,), infinite for equal images."""
    return -10 * (predicted - true).square().mean(dim=(1, 2, 3)).log10()


def ssim(predicted: Tensor, true: Tensor) -> Tensor:
    """Returns the structural similarity of rgb (B, 3, H, W) after Wang et al. (2004): (B,).

    The window is an 11x11 Gaussian of sigma 1.5; K is 0.01 and 0.03. The mean is over channels and over the pixels
    whose window lies inside the image. This equals `skimage.metrics.structural_similarity` with gaussian_weights,
    sigma=1.5 and use_sample_covariance=False.
    """
    from kornia.metrics import ssim as kornia_ssim

    with kornia_constants():
        return kornia_ssim(predicted, true, window_size=11, max_val=1.0, padding="valid").mean(dim=(1, 2, 3))


def colorfulness(rgb: Tensor, *, absolute: bool = False) -> Tensor:
    """Returns the colorfulness of rgb (B, 3, H, W) after Hasler and Suesstrunk (2003), eq. 3: (B,).

    0 is grey, 109 extremely colourful. It is sqrt(var(rg) + var(yb)) + 0.3 sqrt(mean(rg)^2 + mean(yb)^2), where
    rg = R - G and yb = (R + G) / 2 - B on the scale of 255. `absolute` takes |rg| and |yb|, as the code of DDColor, CT2
    and ColorFormer does; the result is smaller by 3 on average and by 50 at most.
    """
    red, green, blue = (255 * rgb).unbind(dim=1)
    opponents = [red - green, (red + green) / 2 - blue]
    if absolute:
        opponents = [opponent.abs() for opponent in opponents]
    variance = sum(opponent.var(dim=(1, 2), correction=0) for opponent in opponents)
    square = sum(opponent.mean(dim=(1, 2)).square() for opponent in opponents)
    assert isinstance(variance, Tensor)
    assert isinstance(square, Tensor)
    return variance.sqrt() + 0.3 * square.sqrt()


def chroma(ab: Tensor) -> Tensor:
    """Returns the mean distance of ab (B, 2, H, W) from grey, in Lab units: (B,)."""
    return ab.square().sum(dim=1).sqrt().mean(dim=(1, 2))
