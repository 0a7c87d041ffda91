import json
from pathlib import Path

import numpy as np
import pytest
import torch
from photochrom.losses import rebalancing_weights
from photochrom.losses.rebalancing import check_prior, is_colorful, load_prior

Tolerances = dict[torch.dtype, dict[str, float]]


@pytest.mark.parametrize("lam", [0.1, 0.5, 1.0])
def test_weights_against_numpy(prior: list[float], lam: float, tolerances: Tolerances) -> None:
    """Eq. 4 of Zhang et al., with the uniform term over the bins that occur, as in the released PriorFactor."""
    share = np.array(prior)
    occurs = share > 0
    weight = 1 / ((1 - lam) * share[occurs] + lam / occurs.sum())
    weight /= (share[occurs] * weight).sum()
    expected = np.full(313, weight.max())
    expected[occurs] = weight
    np.testing.assert_allclose(rebalancing_weights(torch.tensor(prior), lam), expected, **tolerances[torch.float32])


def test_weights_are_one_on_average_and_finite_for_bins_that_never_occur(prior: list[float]) -> None:
    for lam in (0.0, 0.5):
        weight = rebalancing_weights(torch.tensor(prior, dtype=torch.float64), lam)
        assert (weight.double() @ torch.tensor(prior, dtype=torch.float64)).item() == pytest.approx(1, rel=1e-6)
        assert weight.isfinite().all()
        assert (weight[-20:] == weight.max()).all()


def test_a_prior_of_counts_gives_the_same_weights(prior: list[float]) -> None:
    counts = torch.tensor(prior) * 12345
    torch.testing.assert_close(rebalancing_weights(counts), rebalancing_weights(torch.tensor(prior)))
    assert torch.equal(rebalancing_weights(counts.numpy()), rebalancing_weights(counts))


def test_photographs_are_grey_if_no_value_exceeds_five() -> None:
    ab = torch.zeros(4, 2, 8, 8)
    ab[1, 0, 3, 4] = 5.0
    ab[2, 1, 3, 4] = -5.1
    ab[3] = 60
    assert is_colorful(ab).tolist() == [False, False, True, True]


def test_a_prior_is_read_from_a_manifest_or_an_array(prior: list[float], tmp_path: Path) -> None:
    np.save(tmp_path / "prior.npy", np.array(prior))
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 1, "ab_histogram": prior}))
    assert load_prior(tmp_path / "prior.npy") == load_prior(tmp_path / "manifest.json") == load_prior(tmp_path) == prior


def test_an_invalid_prior_is_refused(prior: list[float], tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "pairs.npy", np.zeros((313, 2)))
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "list.json").write_text("[1, 2]")
    np.savez(tmp_path / "several.npz", prior=np.array(prior))
    (tmp_path / "empty.npy").touch()
    for name in ("nothing.npy", "empty.npy", "several.npz", "objects.npy", "manifest.json", "list.json"):
        with pytest.raises(ValueError, match=rf"loss\.prior=.*{name} cannot be read .*: name a shard set"):
            load_prior(tmp_path / name)
    with pytest.raises(ValueError, match=r"pairs\.npy is not a list of 313 numbers"):
        load_prior(tmp_path / "pairs.npy")
    with pytest.raises(ValueError, match="has 3 numbers in place of 313"):
        check_prior([0.2, 0.3, 0.5])
    for broken in ([-1.0, *prior[1:]], [float("nan"), *prior[1:]], [0.0] * 313):
        with pytest.raises(ValueError, match="is not a distribution"):
            check_prior(broken)
