import numpy as np
import pytest
import torch
from photochrom.engine.evaluation import metrics
from photochrom.pipelines import DaliLoader, ShardSet, lab_to_rgb
from skimage.metrics import peak_signal_noise_ratio, structural_similarity


@pytest.fixture(scope="module")
def pictures(shards: ShardSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Photographs and a poor colouring of them, sRGB (9, 3, 48, 48)."""
    batch = next(iter(DaliLoader(shards, batch_size=9, size=48, train=False)))
    return lab_to_rgb(batch.L, batch.ab * 0.4 + 3), lab_to_rgb(batch.L, batch.ab)


def test_psnr_against_skimage(pictures: tuple[torch.Tensor, torch.Tensor], device: torch.device) -> None:
    predicted, true = pictures
    ours = metrics.psnr(predicted.to(device), true.to(device)).cpu()
    for i in range(9):
        assert ours[i] == pytest.approx(
            peak_signal_noise_ratio(true[i].numpy(), predicted[i].numpy(), data_range=1), 1e-4
        )


def test_ssim_against_skimage(pictures: tuple[torch.Tensor, torch.Tensor], device: torch.device) -> None:
    predicted, true = pictures
    ours = metrics.ssim(predicted.to(device), true.to(device)).cpu()
    for i in range(9):
        expected = structural_similarity(
            true[i].double().numpy(),
            predicted[i].double().numpy(),
            channel_axis=0,
            data_range=1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert ours[i] == pytest.approx(expected, abs=1e-4)


def test_equal_pictures(pictures: tuple[torch.Tensor, torch.Tensor]) -> None:
    _, true = pictures
    assert torch.isposinf(metrics.psnr(true, true)).all()
    torch.testing.assert_close(metrics.ssim(true, true), torch.ones(9))


def test_error_of_ab_against_numpy() -> None:
    generator = np.random.default_rng(0)
    predicted, true = generator.uniform(-100, 100, (2, 3, 2, 8, 8))
    expected = ((predicted - true) ** 2).reshape(3, -1).mean(axis=1)
    ours = metrics.mse_ab(torch.from_numpy(predicted), torch.from_numpy(true))
    np.testing.assert_allclose(ours.numpy(), expected)


def test_auc_against_its_definition() -> None:
    generator = np.random.default_rng(0)
    predicted, true = generator.uniform(-90, 90, (2, 3, 2, 8, 8))
    error = np.sqrt(((predicted - true) ** 2).sum(axis=1))
    expected = 100 * np.mean([(error <= t).mean(axis=(1, 2)) for t in range(151)], axis=0)
    ours = metrics.auc(torch.from_numpy(predicted), torch.from_numpy(true))
    np.testing.assert_allclose(ours.numpy(), expected)


@pytest.mark.parametrize(
    ("error", "expected"), [(0, 100), (3, 100 * 148 / 151), (3.5, 100 * 147 / 151), (150, 100 / 151), (151, 0)]
)
def test_auc_at_whole_thresholds(error: float, expected: float) -> None:
    predicted = torch.zeros(1, 2, 4, 4)
    true = torch.stack([torch.full((1, 4, 4), float(error)), torch.zeros(1, 4, 4)], dim=1)
    assert metrics.auc(predicted, true).item() == pytest.approx(expected)


def test_rebalanced_auc_against_its_definition() -> None:
    generator = np.random.default_rng(0)
    predicted, true = generator.uniform(-90, 90, (2, 3, 2, 8, 8))
    weight = generator.uniform(0.1, 5, (3, 8, 8))
    error = np.sqrt(((predicted - true) ** 2).sum(axis=1))
    expected = [
        100 * np.mean([(w * (e <= t)).sum() / w.sum() for t in range(151)]) for e, w in zip(error, weight, strict=True)
    ]
    ours = metrics.auc(*map(torch.from_numpy, (predicted, true, weight)))
    np.testing.assert_allclose(ours.numpy(), expected)


def colorfulness(rgb: np.ndarray, *, absolute: bool) -> float:
    """Hasler and Suesstrunk, eq. 3, in NumPy: rgb (3, H, W) in [0, 1]."""
    red, green, blue = 255 * rgb.astype(np.float64)
    rg, yb = red - green, (red + green) / 2 - blue
    if absolute:
        rg, yb = abs(rg), abs(yb)
    return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))


@pytest.mark.parametrize("absolute", [False, True])
def test_colorfulness_against_numpy(
    pictures: tuple[torch.Tensor, torch.Tensor], absolute: bool, device: torch.device
) -> None:
    _, true = pictures
    ours = metrics.colorfulness(true.to(device), absolute=absolute).cpu()
    expected = [colorfulness(picture.numpy(), absolute=absolute) for picture in true]
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-4)


def test_grey_is_not_colourful(device: torch.device) -> None:
    grey = torch.rand(2, 1, 16, 16, device=device).expand(2, 3, 16, 16)
    assert metrics.colorfulness(grey).max().item() < 1e-3
    assert metrics.chroma(torch.zeros(2, 2, 16, 16)).tolist() == [0, 0]
    assert metrics.chroma(torch.tensor([3.0, -4.0]).view(1, 2, 1, 1).expand(1, 2, 5, 5)).item() == pytest.approx(5)
