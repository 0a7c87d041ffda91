import itertools

import numpy as np
import pytest
from photochrom.pipelines.loading import order

SETTINGS = list(itertools.product([1, 2, 9, 100, 101], [1, 3, 8, 64, 224], [0, 12345], [1, 5]))


@pytest.mark.parametrize(("num_samples", "batch_size", "seed", "block"), SETTINGS)
def test_every_epoch_of_the_stream_holds_each_sample_once(
    num_samples: int, batch_size: int, seed: int, block: int
) -> None:
    epochs = 4
    num_batches = order.first_batch_of_epoch(num_samples, batch_size, epochs)
    pairs = [
        order.training_batch(order.Mixture.of(num_samples), batch_size, seed, number, block)
        for number in range(num_batches)
    ]
    seen = sorted((e, i) for index, epoch in pairs for i, e in zip(index.tolist(), epoch.tolist(), strict=True))
    expected = list(itertools.product(range(epochs), range(num_samples)))
    assert seen[: len(expected)] == expected
    assert len(seen) - len(expected) < batch_size


@pytest.mark.parametrize("block", [2, 7, 64])
@pytest.mark.parametrize("num_samples", [1, 9, 1000, 30_011])
def test_blocks_are_read_a_bounded_number_at_a_time(num_samples: int, block: int) -> None:
    orders = [order.epoch_order(num_samples, 0, epoch, block) for epoch in range(3)]
    for visited in orders:
        assert sorted(visited) == list(range(num_samples))
        # A block is read within a group of 128 blocks, whose samples follow one another in the order.
        position = np.empty(num_samples, dtype=np.int64)
        position[visited] = np.arange(num_samples)
        is_near = np.abs(np.diff(position)) < 128 * block  # of neighbours in storage, except between blocks
        assert np.count_nonzero(~is_near) <= num_samples // block + 1
    if num_samples > 1000:
        neighbours = [set(itertools.pairwise(visited.tolist())) for visited in orders]
        assert len(neighbours[0] & neighbours[1]) < 10  # although the same blocks are read at the same time


def test_groups_of_blocks_differ_from_epoch_to_epoch() -> None:
    first, second = (order.epoch_order(30_000, 0, epoch, 16)[:2048] for epoch in range(2))
    assert len(set(first) & set(second)) < 400  # 140 by chance


def test_parts_of_a_share_follow_the_storage_and_keep_their_samples() -> None:
    index, epochs = order.training_batch(order.Mixture.of(1000), 63, 0, 3)
    for parts in (1, 3, 4):
        sorting = order.by_storage(index, epochs, parts)
        for number in range(parts):
            part = order.share(63, number, parts)
            assert (np.diff(index[sorting][part]) >= 0).all()
            assert sorted(index[sorting][part]) == sorted(index[part])


@pytest.mark.parametrize("world_size", [2, 5])
def test_every_rank_meets_every_sample(world_size: int) -> None:
    """Each rank's BatchNorm statistics come from the whole set: its share is not a fixed part."""
    met: list[set[int]] = [set() for _ in range(world_size)]
    for number in range(400):
        index, _ = order.training_batch(order.Mixture.of(100), 10, 0, number)
        for rank in range(world_size):
            met[rank] |= set(index[order.share(10, rank, world_size)].tolist())
    assert all(rank == set(range(100)) for rank in met)


def test_orders_differ_between_epochs_and_seeds() -> None:
    first = order.epoch_order(100, 0, 0).tolist()
    assert first != order.epoch_order(100, 0, 1).tolist()
    assert first != order.epoch_order(100, 1, 0).tolist()


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("size", [0, 1, 7, 224])
def test_shares_cut_a_batch_into_even_parts(size: int, world_size: int) -> None:
    shares = [range(size)[order.share(size, rank, world_size)] for rank in range(world_size)]
    assert list(itertools.chain(*shares)) == list(range(size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("num_samples", "batch_size"), [(1, 1), (9, 4), (100, 100), (101, 100)])
def test_evaluation_visits_each_sample_once_in_order(num_samples: int, batch_size: int) -> None:
    num_batches = -(-num_samples // batch_size)
    batches = [order.evaluation_batch(num_samples, batch_size, number) for number in range(num_batches)]
    assert np.concatenate(batches).tolist() == list(range(num_samples))


@pytest.mark.parametrize(("num_samples", "batch_size"), [(9, 4), (100, 8), (9, 224)])
def test_epochs_begin_where_they_say(num_samples: int, batch_size: int) -> None:
    for epoch in range(5):
        number = order.first_batch_of_epoch(num_samples, batch_size, epoch)
        assert number * batch_size >= epoch * num_samples
        assert number == 0 or (number - 1) * batch_size < epoch * num_samples


def batch_overlap(num_samples: int, batch_size: int, block: int) -> float:
    """Returns how often two samples of a batch shared a batch in the epoch before, relative to chance."""
    before, now = (
        order.epoch_order(num_samples, 0, epoch, block)[: num_samples - num_samples % batch_size] for epoch in range(2)
    )
    batch = np.full(num_samples, -1)
    batch[before] = np.arange(len(before)) // batch_size
    pairs = 0.0
    for numbers in batch[now].reshape(-1, batch_size):
        counts = np.unique(numbers[numbers >= 0], return_counts=True)[1]
        pairs += float((counts * (counts - 1) / 2).sum())
    chance = len(now) * (batch_size - 1) / 2 * (batch_size - 1) / (num_samples - 1)
    return pairs / chance


def test_batches_of_two_epochs_overlap_by_chance() -> None:
    assert batch_overlap(20_000, 200, 1) == pytest.approx(1, abs=0.03)
    assert batch_overlap(20_000, 200, 10_000) == pytest.approx(1, abs=0.03)  # two blocks are mixed completely
    assert batch_overlap(256 * 128, 512, 4) > 1.005  # a batch takes whole groups of blocks


@pytest.mark.parametrize("block", [1, 5])
@pytest.mark.parametrize(
    ("sizes", "draws"), [((7, 3), (7, 3)), ((100, 10, 1), (40, 60, 11)), ((9, 2000), (1500, 509)), ((5,), (5,))]
)
def test_each_set_is_drawn_as_often_as_said(sizes: tuple[int, ...], draws: tuple[int, ...], block: int) -> None:
    mixture = order.Mixture(sizes, draws)
    epochs, batch_size = 4, 3
    num_batches = order.first_batch_of_epoch(mixture.epoch_size, batch_size, epochs)
    pairs = [order.training_batch(mixture, batch_size, 0, number, block) for number in range(num_batches)]
    index, epoch = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
    starts = np.cumsum((0, *sizes))
    for number, (size, drawn) in enumerate(zip(sizes, draws, strict=True)):
        of_set = (index >= starts[number]) & (index < starts[number + 1])
        for first in range(0, epochs * mixture.epoch_size, mixture.epoch_size):
            assert np.count_nonzero(of_set[first : first + mixture.epoch_size]) == drawn
        # The set's own stream: every epoch of its own holds each sample once, in the order of a run on it alone.
        samples, own_epochs = index[of_set] - starts[number], epoch[of_set]
        assert own_epochs.tolist() == (np.arange(len(samples)) // size).tolist()
        for own in range(len(samples) // size):
            assert samples[own_epochs == own].tolist() == order.epoch_order(size, 0, own, block).tolist()


def test_sets_take_random_turns() -> None:
    index, _ = order.mixture_order(order.Mixture((1000, 1000), (500, 1500)), 0, 0)
    drawn = [np.count_nonzero(part < 1000) for part in np.array_split(index, 20)]
    assert 10 < min(drawn) < 25 < max(drawn) < 40  # a standard deviation is 4.3
