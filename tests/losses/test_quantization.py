import hashlib

import numpy as np
import pytest
import torch
from photochrom.losses import ab_bins, ab_histogram, soft_encode


def test_the_bins_are_the_published_ones() -> None:
    # The sha256 of the int64 values of pts_in_hull.npy, as published with the ECCV 2016 code.
    values = ab_bins().numpy().astype(np.int64)
    assert values.shape == (313, 2)
    assert hashlib.sha256(values.tobytes()).hexdigest() == (
        "2a39983ed60d5b52b717842d56d5f766982289e6d5a609582155f437cecc1045"
    )


@pytest.mark.parametrize("k", [1, 5, 10])
def test_soft_encoding_against_numpy(k: int) -> None:
    generator = np.random.default_rng(0)
    ab = generator.uniform(-80, 80, (2, 2, 5, 7))
    index, weight = soft_encode(torch.from_numpy(ab), k=k)
    assert index.shape == weight.shape == (2, k, 5, 7)
    bins = ab_bins().double().numpy()
    distance = ((ab.transpose(0, 2, 3, 1)[..., None, :] - bins) ** 2).sum(axis=-1)
    nearest = np.argsort(distance, axis=-1)[..., :k]
    expected = np.exp(-np.take_along_axis(distance, nearest, axis=-1) / (2 * 5.0**2))
    expected /= expected.sum(axis=-1, keepdims=True)
    assert (index.numpy().transpose(0, 2, 3, 1) == nearest).all()
    np.testing.assert_allclose(weight.numpy().transpose(0, 2, 3, 1), expected, atol=1e-4)


def test_a_bin_s_own_colour_is_mostly_itself() -> None:
    index, weight = soft_encode(ab_bins().T.reshape(1, 2, 313, 1))
    assert index[0, 0, :, 0].tolist() == list(range(313))
    assert (weight[0, 0] > 0.5).all()


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
