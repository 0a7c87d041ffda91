"""Several shard sets in one run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from photochrom.pipelines import DaliLoader, PackConfig, ShardSet, TorchLoader, pack
from photochrom.pipelines.joined_shards import JoinedShardSet, draws_per_epoch, open_shards


@pytest.fixture(scope="module")
def other(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Two photographs that are 112 pixels high or wide."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "photos").mkdir()
    for name in ("coffee.png", "rocket.jpg"):
        shutil.copy(photos / name, folder / "photos")
    pack(PackConfig(source=folder / "photos", out=folder / "shards", short_side=112))
    return ShardSet.open(folder / "shards")


def loader(data: ShardSet, **settings: object) -> TorchLoader:
    return TorchLoader(data, **{"batch_size": 6, "size": 32, "train": True, **settings})


def test_samples_are_numbered_one_set_after_the_other(shards: ShardSet, other: ShardSet) -> None:
    joined = open_shards([str(shards.root), str(other.root)])
    assert joined.num_samples == 11
    assert [joined.sample(i).read() for i in range(11)] == [
        *(shards.sample(i).read() for i in range(9)),
        *(other.sample(i).read() for i in range(2)),
    ]
    assert np.array_equal(joined.sizes, np.concatenate([shards.sizes, other.sizes]))
    assert str(other.root) in joined.describe_sample(9)
    assert joined.digest.split() == [shards.digest, other.digest]


def test_the_prior_is_that_of_the_photographs_drawn(shards: ShardSet, other: ShardSet) -> None:
    np.testing.assert_allclose(JoinedShardSet([shards, other]).prior, (9 * shards.prior + 2 * other.prior) / 11)
    joined = JoinedShardSet([shards, other], [3, 1])
    assert joined.draws == (8, 3)  # of 11: 8.25 and 2.75
    np.testing.assert_allclose(joined.prior, (8 * shards.prior + 3 * other.prior) / 11)


def test_every_loader_draws_the_same_pixels_and_continues_exactly(shards: ShardSet, other: ShardSet) -> None:
    joined = JoinedShardSet([shards, other], [1, 2])
    whole = [batch for loop in (loader(joined),) for _ in range(3) for batch in loop]
    assert len(whole) == 6  # 3 epochs of 11 in batches of 6
    for batch, dali in zip(whole, DaliLoader(joined, batch_size=6, size=32, train=True), strict=False):
        assert torch.equal(batch.index, dali.index)
        torch.testing.assert_close(batch.L, dali.L.cpu(), atol=2, rtol=0)
    interrupted = loader(joined)
    next(iter(interrupted))
    resumed = loader(joined)
    resumed.load_state_dict(json.loads(json.dumps(interrupted.state_dict())))
    ranks = [iter(loader(joined, rank=rank, world_size=2)) for rank in range(2)]
    assert torch.equal(next(iter(resumed)).ab, whole[1].ab)
    assert sorted(i for rank in ranks for i in next(rank).index.tolist()) == sorted(whole[0].index.tolist())


def test_a_run_does_not_continue_with_other_weights(shards: ShardSet, other: ShardSet) -> None:
    state = loader(JoinedShardSet([shards, other], [1, 2])).state_dict()
    with pytest.raises(ValueError, match=r"draws=\[4, 7\] then and \[6, 6\] now"):
        loader(JoinedShardSet([shards, other], [1, 1])).load_state_dict(state)


@pytest.mark.parametrize("weights", [[1], [1, 2, 3], [1, 0], [1, -1], [1, float("nan")], [1, float("inf")], []])
def test_each_set_needs_a_positive_weight(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="must be one positive number for each of 2 shard sets"):
        draws_per_epoch([9, 2], weights)


def test_every_set_is_drawn_at_least_once() -> None:
    assert draws_per_epoch([1000, 5], [1, 1e9]) == (1, 1005)


def test_sets_that_cannot_be_mixed(shards: ShardSet, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    shutil.copy(photos / "coffee.png", tmp_path / "photos")
    pack(PackConfig(source=tmp_path / "photos", out=tmp_path / "lab", short_side=96, store="lab"))
    with pytest.raises(ValueError, match=r"holds photographs as jpeg and .* as lab, which cannot be mixed"):
        JoinedShardSet([shards, ShardSet.open(tmp_path / "lab")])
