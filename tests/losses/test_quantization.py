import hashlib

import numpy as np
import pytest
import torch
from photochrom.losses import ab_bins, ab_histogram, annealed_mean, quantization, soft_encode
from photochrom.losses.constant import constant
from skimage.color import rgb2lab


def test_the_bins_are_the_published_ones() -> None:
    # The sha256 of the int64 values of pts_in_hull.npy, as published with the ECCV 2016 code.
    values = ab_bins().numpy().astype(np.int64)
    assert values.shape == (313, 2)
    assert hashlib.sha256(values.tobytes()).hexdigest() == (
        "2a39983ed60d5b52b717842d56d5f766982289e6d5a609582155f437cecc1045"
    )


def test_the_bins_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bins = ab_bins()
    monkeypatch.setattr(quantization, "_gamut_ab", None)  # computing them again would fail
    assert ab_bins(torch.device("cpu")) is ab_bins(device=torch.device("cpu")) is bins
    assert ab_bins(torch.device("meta")) is ab_bins(torch.device("meta")) is not bins


@pytest.mark.parametrize("k", [1, 5, 10, 40])
def test_soft_encoding_against_numpy(k: int) -> None:
    """Against all 313 distances; also beyond the gamut, where neighbours of the grid are missing."""
    generator = np.random.default_rng(0)
    ab = generator.uniform(-129, 129, (2, 2, 50, 70))
    index, weight = soft_encode(torch.from_numpy(ab), k=k)
    assert index.shape == weight.shape == (2, k, 50, 70)
    bins = ab_bins().double().numpy()
    distance = ((ab.transpose(0, 2, 3, 1)[..., None, :] - bins) ** 2).sum(axis=-1)
    nearest = np.argsort(distance, axis=-1)[..., :k]
    expected = np.exp(-np.take_along_axis(distance, nearest, axis=-1) / (2 * 5.0**2))
    expected /= expected.sum(axis=-1, keepdims=True)
    # By their distances, nearest first, since two bins can be equally near.
    chosen = np.take_along_axis(distance, index.numpy().transpose(0, 2, 3, 1), axis=-1)
    np.testing.assert_allclose(chosen, np.take_along_axis(distance, nearest, axis=-1), rtol=1e-5, atol=1e-2)
    np.testing.assert_allclose(weight.numpy().transpose(0, 2, 3, 1), expected, atol=1e-4)


def test_a_bin_s_own_colour_is_mostly_itself() -> None:
    index, weight = soft_encode(ab_bins().T.reshape(1, 2, 313, 1))
    assert index[0, 0, :, 0].tolist() == list(range(313))
    assert (weight[0, 0] > 0.5).all()


@pytest.mark.parametrize(("k", "expected"), [(1, 4.09), (5, 0.27), (10, 0.24)])
def test_encoding_and_decoding_the_srgb_cube(k: int, expected: float) -> None:
    """The root of the mean squared distance of ab, as measured for the published bins."""
    level = np.linspace(0, 1, 33)
    rgb = np.stack(np.meshgrid(level, level, level), axis=-1).reshape(1, -1, 3)
    ab = torch.from_numpy(rgb2lab(rgb)[..., 1:]).permute(0, 2, 1)[..., None]
    index, weight = soft_encode(ab, k=k)
    decoded = (weight[..., None] * ab_bins()[index]).sum(dim=1).permute(0, 3, 1, 2)
    error = (decoded - ab).square().sum(dim=1).mean().sqrt()
    assert error.item() == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("k", [0, -1, 314])
def test_a_number_of_neighbours_out_of_range_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"k={k} is not in 1..313"):
        soft_encode(torch.zeros(1, 2, 1, 1), k=k)


@pytest.mark.parametrize("temperature", [0.38, 1.0, 3.0])
def test_annealed_mean_against_numpy(temperature: float, tolerances: dict[torch.dtype, dict[str, float]]) -> None:
    """Eq. 5 of Zhang et al.: exp(log(z) / T) / sum exp(log(z) / T)."""
    logits = np.random.default_rng(0).normal(scale=3, size=(2, 313, 3, 4))
    z = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    f = np.exp(np.log(z) / temperature)
    f /= f.sum(axis=1, keepdims=True)
    expected = np.einsum("bqhw,qc->bchw", f, ab_bins().double().numpy())
    decoded = annealed_mean(torch.from_numpy(logits), temperature)
    np.testing.assert_allclose(decoded, expected, **tolerances[torch.float64])


def test_the_paper_s_temperature_is_the_default() -> None:
    logits = torch.randn(1, 313, 2, 2)
    assert torch.equal(annealed_mean(logits), annealed_mean(logits, 0.38))


def test_at_temperature_zero_it_is_the_mode() -> None:
    logits = torch.randn(2, 313, 3, 4)
    mode = ab_bins()[logits.argmax(dim=1)].permute(0, 3, 1, 2)
    assert torch.equal(annealed_mean(logits, 0), mode)
    torch.testing.assert_close(annealed_mean(logits, 1e-4), mode)


def test_decoding_stays_float32_under_autocast(device: torch.device) -> None:
    logits = 3 * torch.randn(1, 313, 4, 4, device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        decoded = annealed_mean(logits)
    torch.testing.assert_close(decoded, annealed_mean(logits))


def test_the_kernel_is_a_gaussian_over_the_distance() -> None:
    ab = torch.from_numpy(np.random.default_rng(0).uniform(-100, 90, (2, 2, 3, 4)))
    distance = ((ab[:, None] - ab_bins()[None, :, :, None, None]) ** 2).sum(dim=2)
    expected = torch.softmax(-distance / (2 * 5.0**2), dim=1)
    torch.testing.assert_close(quantization.kernel_logits(ab).softmax(dim=1), expected)


def test_results_cached_in_evaluation_serve_training() -> None:
    """A tensor made in inference mode cannot be saved for a backward pass."""
    kept = constant(lambda: torch.ones(1))
    with torch.inference_mode():
        made = kept()
    assert kept() is made
    assert not made.is_inference()
    ab = torch.zeros(1, 2, 1, 1, requires_grad=True)
    with torch.inference_mode():
        soft_encode(ab, k=41)  # not cached by another test
    (quantization.kernel_logits(ab).logsumexp(dim=1) * soft_encode(ab, k=41)[1]).sum().backward()
    assert ab.grad is not None


def test_the_histogram_counts_colours() -> None:
    counts = np.zeros((256, 256), dtype=np.int64)
    counts[128 + 50, 128 - 30] = 3
    counts[128 - 20, 128 + 10] = 1
    histogram = ab_histogram(counts)
    assert histogram.sum() == pytest.approx(1)
    bins = ab_bins().tolist()
    index, weight = soft_encode(torch.tensor([[[[50.0]], [[-30.0]]]]))
    assert histogram[bins.index([50, -30])] == pytest.approx(0.75 * weight[0, 0].item(), rel=1e-5)
    assert histogram[index[0, :, 0, 0]].sum() == pytest.approx(0.75, rel=1e-5)


def test_the_nearest_bin_of_every_colour_of_srgb() -> None:
    """Against NumPy over a lattice of the sRGB cube; outside it, the nearest bin is not guaranteed."""
    level = np.linspace(0, 1, 33)
    rgb = np.stack(np.meshgrid(level, level, level), axis=-1).reshape(-1, 1, 3)
    ab = rgb2lab(rgb)[:, 0, 1:]
    bins = ab_bins().double().numpy()
    distance = np.linalg.norm(ab[:, None] - bins, axis=-1)
    nearest = quantization.nearest_bin(torch.from_numpy(ab.T.reshape(1, 2, -1, 1)))[0, :, 0].numpy()
    np.testing.assert_allclose(distance[np.arange(len(ab)), nearest], distance.min(axis=1), atol=1e-4)
    far = torch.tensor([500.0, -500.0]).reshape(1, 2, 1, 1)
    assert quantization.nearest_bin(far).item() in range(313)
