"""Tests of loaders on photographs that were damaged after packing: errors name them, and the position stays right."""

import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from photochrom.pipelines import CachedLoader, DaliLoader, LabBatch, Loader, PackConfig, ShardSet, TorchLoader, pack
from photochrom.pipelines.packing.verify import VerifyConfig, verify

LOADERS: dict[str, Any] = {
    "dali": DaliLoader,
    "torch": TorchLoader,
    "cached": CachedLoader,
    "cached on the device": partial(CachedLoader, cache_location="device"),
}

every_loader = pytest.mark.parametrize("kind", LOADERS)


def loader(kind: str, shards: ShardSet, **settings: Any) -> Loader:
    return LOADERS[kind](shards, **{"size": 64, "threads": 2, **settings})


@every_loader
def test_the_error_names_the_damaged_photograph_and_its_shard(kind: str, photos: Path, tmp_path: Path) -> None:
    pack(PackConfig(source=photos, out=tmp_path / "out", short_side=96, workers=2))
    shards = ShardSet.open(tmp_path / "out")
    offset, size = shards.byte_ranges[3].tolist()
    tar = shards.tar(3)
    whole = tar.read_bytes()
    write_at(tar, offset, bytes(size))
    batches = loader(kind, shards, batch_size=2, train=False)
    for _ in range(2):  # a second attempt fails in the same way
        with pytest.raises(
            ValueError,
            match=r"sample 3 of .* \(in photos-000000\.tar, key ihc-\w+, from ihc.png\) cannot be read any more "
            r"\(not an image\): 'photochrom verify --decode' lists all such photographs; pack again",
        ):
            list(batches)
    write_at(tar, 0, whole)
    assert sum(map(len, batches)) == 9
    os.truncate(tar, 512)
    with pytest.raises(ValueError, match=r"photos-000000\.tar was cut to 512 bytes since it was opened: restore it"):
        list(loader("torch", shards, batch_size=2, train=False) if "cached" in kind else batches)


@every_loader
def test_an_error_leaves_the_loader_where_it_was(kind: str, photos: Path, tmp_path: Path) -> None:
    """The failed batch is loaded again, and the saved position does not count it."""
    shards = damaged(photos, tmp_path / "out", 3)
    batches, yielded = loader(kind, shards, batch_size=2, train=True), 0
    for _ in range(2):
        number, error = count_until_error(itertools.chain.from_iterable(itertools.repeat(batches)))
        yielded += number
        assert re.search(r"sample 3 of .* cannot be read any more", error)
        assert batches.state_dict()["position"] == 2 * yielded


def test_batches_of_an_abandoned_pass_do_not_come_back(photos: Path, tmp_path: Path) -> None:
    """An evaluation stops while DALI prefetches a photograph that it cannot decode."""
    shards = damaged(photos, tmp_path / "out", 5)
    good = [i for i in range(9) if i != 5]
    expected = {int(b.index): b.ab for b in loader("torch", shards, batch_size=1, train=False, samples=good)}
    batches = loader("dali", shards, batch_size=1, train=False, prefetch_batches=3)
    for stop in (2, 3, 4):
        for number, batch in enumerate(batches):
            assert (batch.ab - expected[int(batch.index)]).abs().mean() < 0.5
            if number == stop:
                break
    assert count_until_error(iter(batches))[0] == 5


def test_verify_lists_the_damaged_photographs(photos: Path, tmp_path: Path) -> None:
    shards = damaged(photos, tmp_path / "out", 3)
    problems = verify(VerifyConfig(root=shards.root, decode=True, workers=1))
    tar = shards.tar(3)
    assert problems[0] == f"{tar} has other content than when the manifest was written"
    assert [problem.partition(" does not decode")[0] for problem in problems[1:]] == [
        f"{tar}: {shards.sample(3).key}.jpg"
    ]
    with open(tar, "ab") as file:
        file.write(bytes(512))
    assert len(verify(VerifyConfig(root=shards.root, decode=True, workers=1))) == 1, "the rest of the shard is skipped"


@every_loader
def test_a_manifest_with_other_sizes_is_refused(kind: str, shards: ShardSet, tmp_path: Path) -> None:
    """Crop windows outside an image would read other memory."""
    folder = Path(shutil.copytree(shards.root, tmp_path / "other"))
    manifest = json.loads((folder / "manifest.json").read_text())
    for shard in manifest["shards"]:
        shard["sizes"] = " ".join(["4000x4000"] * shard["samples"])
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"sample \d of .* \(it is \d+x\d+ and was 4000x4000 when it was packed"):
        list(loader(kind, ShardSet.open(folder), batch_size=9, size=64, train=True, crop="random"))


def test_a_failing_conversion_is_not_a_damaged_photograph(shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    batches = loader("dali", shards, batch_size=3, train=False)
    monkeypatch.setattr(DaliLoader, "_convert", fail)
    with pytest.raises(RuntimeError, match=r"^out of memory$"):
        list(batches)


def damaged(photos: Path, out: Path, number: int) -> ShardSet:
    """Returns a set of nine photographs; one was damaged after packing."""
    pack(PackConfig(source=photos, out=out, short_side=96, workers=2))
    shards = ShardSet.open(out)
    offset, size = shards.byte_ranges[number].tolist()
    write_at(shards.tar(number), offset, bytes(size))
    return shards


def write_at(path: Path, offset: int, data: bytes) -> None:
    """Writes into a file that is being read, without truncating it."""
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def count_until_error(batches: Iterator[LabBatch]) -> tuple[int, str]:
    number = 0
    try:
        for _ in batches:
            number += 1
    except ValueError as error:
        return number, str(error)
    raise AssertionError("no error")
