import mmap
import os
from pathlib import Path

import numpy as np
import pytest
from photochrom.pipelines import PackConfig, ShardSet, pack
from photochrom.pipelines.loading import reader as reading
from photochrom.pipelines.loading.reader import LocalReader


def test_any_samples_are_read_in_any_order(shards: ShardSet) -> None:
    index = np.array([8, 0, 4, 4, 3])
    for i, stored in zip(index.tolist(), LocalReader(shards).read(index), strict=True):
        offset, size = shards.byte_ranges[i]
        assert stored.tobytes() == shards.tar(i).read_bytes()[offset : offset + size]
        assert stored[:2].tolist() == [0xFF, 0xD8]
        assert not stored.flags.writeable


@pytest.mark.skipif(not hasattr(mmap, "MADV_WILLNEED"), reason="this system has no madvise")
def test_neighbours_are_prefetched_as_one_range(shards: ShardSet) -> None:
    reader = LocalReader(shards)
    reader.prefetch(np.arange(9))
    assert [shard for shard, _, _ in reader._ranges(np.arange(9))] == [0, 1, 2]
    ((shard, start, stop),) = reader._ranges(np.array([2, 1]))
    assert (shard, start, stop) == (0, shards.byte_ranges[1, 0], shards.byte_ranges[2].sum())


def test_few_files_are_open_at_a_time(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(PackConfig(source=photos, out=tmp_path / "out", shard_samples=1, workers=2))
    shards = ShardSet.open(tmp_path / "out")
    monkeypatch.setattr(reading, "_MAX_MAPS", 3)
    reader, before = LocalReader(shards), len(os.listdir("/proc/self/fd"))
    for i in [*range(9), 8, 0, 4]:
        assert bytes(reader.read(np.array([i]))[0]) == shards.sample(i).read()
    assert len(os.listdir("/proc/self/fd")) - before == 3
    arrays = reader.read(np.arange(9))  # arrays outlive their files
    assert [bytes(array) for array in arrays] == [shards.sample(i).read() for i in range(9)]
