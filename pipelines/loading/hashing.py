"""Random numbers as pure functions of integers.

Order and augmentation must not depend on the number of ranks or on where a run was resumed. So there is no generator
with a state: each number is a hash of its coordinates (seed, epoch, sample, ...). The mixer is the finaliser of
SplitMix64 (Steele, Lea and Flood, OOPSLA 2014, variant 13 of D. Stafford).
"""

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def random_bits(*key: int | NDArray[np.int64]) -> NDArray[np.uint64]:
    """Returns 64 random bits for each combination of the key's parts, which broadcast against one another."""
    state = np.zeros((1,), dtype=np.uint64)
    for part in key:
        state = _mix((state + _GOLDEN) ^ np.asarray(part, dtype=np.int64).view(np.uint64))
    return state


def uniform(*key: int | NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns numbers in [0, 1) with 53 random bits for each combination of the key's parts."""
    return (random_bits(*key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(size: int, *key: int) -> NDArray[np.int64]:
    """Returns a random order of 0 .. size - 1, equal for equal keys on every machine and NumPy version."""
    return np.argsort(random_bits(*key, np.arange(size)), kind="stable")


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
