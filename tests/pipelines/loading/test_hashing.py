import numpy as np
import pytest
from photochrom.pipelines.loading.hashing import permutation, random_bits, uniform


def test_numbers_are_the_same_on_every_machine() -> None:
    # Frozen: a shard set packed and a run begun elsewhere depend on them.
    assert random_bits(1, 2, 3)[0] == 16914669369030367833
    assert permutation(8, 0, 0).tolist() == [0, 7, 1, 5, 4, 2, 6, 3]


def test_first_mixer_step_is_splitmix64() -> None:
    # The first output of SplitMix64 with seed 0, from the reference implementation of Vigna (prng.di.unimi.it).
    assert random_bits(0)[0] == 0xE220A8397B1DCDAF


def test_uniform_fills_the_unit_interval_evenly() -> None:
    values = uniform(7, np.arange(200_000))
    assert values.min() >= 0
    assert values.max() < 1
    counts = np.histogram(values, bins=100, range=(0, 1))[0]
    chi_square = ((counts - 2000) ** 2 / 2000).sum()
    assert chi_square < 149  # 99 degrees of freedom, p = 0.001


def test_neighbouring_keys_are_uncorrelated() -> None:
    index = np.arange(100_000)
    for other in (uniform(7, 0, index + 1), uniform(7, 1, index), uniform(8, 0, index)):
        assert abs(np.corrcoef(uniform(7, 0, index), other)[0, 1]) < 0.012


def test_keys_broadcast() -> None:
    table = random_bits(3, np.arange(4)[:, None], np.arange(5))
    assert table.shape == (4, 5)
    assert table[2, 3] == random_bits(3, 2, 3)[0]
    assert len(np.unique(table)) == 20


@pytest.mark.parametrize("size", [0, 1, 2, 1000])
def test_permutation_holds_each_number_once(size: int) -> None:
    assert sorted(permutation(size, 5).tolist()) == list(range(size))


def test_permutations_differ_by_key() -> None:
    assert permutation(100, 0, 0).tolist() != permutation(100, 0, 1).tolist()
