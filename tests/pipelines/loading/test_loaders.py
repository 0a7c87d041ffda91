"""Tests of every loader: equal order, crops and colours, on any number of ranks, resumed at any position."""

import hashlib
import io
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from photochrom.pipelines import (
    CachedLoader,
    DaliLoader,
    LabBatch,
    PackConfig,
    ShardSet,
    SyntheticLoader,
    TorchLoader,
    pack,
)
from photochrom.pipelines.loading.base import Loader
from photochrom.pipelines.loading.reader import LocalReader
from PIL import Image
from skimage.color import rgb2lab

READING = {
    "dali": (DaliLoader, {}),
    "torch": (TorchLoader, {}),
    "cached": (CachedLoader, {}),
    "half cached": (CachedLoader, {"cache_gib": 1e5 / 2**30}),
    "cached on the device": (CachedLoader, {"cache_location": "device"}),
}
ALL = {**READING, "synthetic": (SyntheticLoader, {})}

every_loader = pytest.mark.parametrize("kind", ALL)
every_reading_loader = pytest.mark.parametrize("kind", READING)


def loader(kind: str, shards: ShardSet, **settings: Any) -> Loader:
    make, own = ALL[kind]
    return make(shards, **{"batch_size": 4, "size": 64, "train": True, "threads": 2, **own, **settings})


def take(loader: Loader, number: int) -> list[LabBatch]:
    return list(itertools.islice(itertools.chain.from_iterable(itertools.repeat(loader)), number))


def contents(*batches: LabBatch) -> list[tuple[int, str]]:
    """Returns the samples of one batch's shares and the hashes of their pixels, sorted."""
    return sorted(
        (int(index), hashlib.sha256(torch.cat([L, ab]).cpu().numpy().tobytes()).hexdigest())
        for batch in batches
        for index, L, ab in zip(batch.index, batch.L, batch.ab, strict=True)
    )


def pillow(shards: ShardSet, index: int) -> np.ndarray:
    place = shards.byte_ranges[index]
    with open(shards.tar(index), "rb") as file:
        file.seek(place[0])
        return np.asarray(Image.open(io.BytesIO(file.read(place[1]))).convert("RGB"))


@every_reading_loader
def test_lab_agrees_with_skimage_on_the_same_pixels(kind: str, shards: ShardSet, device: torch.device) -> None:
    # A random crop is not resized: it has the pixels of the stored photograph, flipped or not.
    crops = loader(kind, shards, crop="random", device=device)
    for number, batch in enumerate(take(crops, 6)):
        plan = crops.plan(number)
        assert batch.index.tolist() == plan.index.tolist()
        for i, (top, left, height, width) in enumerate(plan.window):
            pixels = pillow(shards, plan.index[i])[top : top + height, left : left + width]
            expected = rgb2lab(pixels[:, ::-1] if plan.flip[i] else pixels)
            lab = torch.cat([batch.L[i], batch.ab[i]]).permute(1, 2, 0).cpu().numpy()
            # On a GPU, nvJPEG's inverse transform differs from libjpeg-turbo's by a level here and there.
            tolerance = 1e-3 if device.type == "cpu" else 3.0
            assert np.abs(lab - expected).max() < tolerance


@every_reading_loader
@pytest.mark.parametrize("crop", ["random_resized", "center", "squash"])
def test_windows_are_cropped_resized_and_flipped_as_planned(kind: str, shards: ShardSet, crop: str) -> None:
    crops = loader(kind, shards, crop=crop)
    for number, batch in enumerate(take(crops, 5)):
        plan = crops.plan(number)
        for i, (top, left, height, width) in enumerate(plan.window):
            window = Image.fromarray(pillow(shards, plan.index[i])).crop((left, top, left + width, top + height))
            pixels = np.asarray(window.resize((64, 64), Image.Resampling.BILINEAR))
            expected = rgb2lab(pixels[:, ::-1] if plan.flip[i] else pixels)
            # Two antialiasing linear filters that round to 8 bits differently; the flipped image would differ by more.
            assert np.abs(batch.L[i, 0].numpy() - expected[..., 0]).mean() < 0.5
            assert np.abs(batch.ab[i].permute(1, 2, 0).numpy() - expected[..., 1:]).mean() < 0.5


@every_reading_loader
@pytest.mark.parametrize("crop", ["random_resized", "random", "center", "squash"])
def test_all_loaders_return_the_same_images(kind: str, crop: str, shards: ShardSet, device: torch.device) -> None:
    reference = take(loader("torch", shards, crop=crop), 5)
    for batch, expected in zip(take(loader(kind, shards, crop=crop, device=device), 5), reference, strict=True):
        assert torch.equal(batch.index, expected.index)
        assert (batch.L.cpu() - expected.L).abs().mean() < 0.5
        assert (batch.ab.cpu() - expected.ab).abs().mean() < 0.5


@every_loader
def test_shapes_types_and_ranges(kind: str, shards: ShardSet, device: torch.device) -> None:
    batch = next(iter(loader(kind, shards, device=device)))
    assert batch.L.shape == (4, 1, 64, 64)
    assert batch.ab.shape == (4, 2, 64, 64)
    assert batch.L.dtype == batch.ab.dtype == torch.float32
    assert batch.L.device.type == batch.ab.device.type == device.type
    assert batch.index.dtype == torch.int64
    assert batch.index.device.type == "cpu"
    assert batch.L.min() >= 0
    assert batch.L.max() <= 100.01
    assert batch.ab.abs().max() < 115
    assert batch.ab.abs().max() > 20


@every_loader
def test_an_epoch_yields_len_batches_and_the_next_one_follows(kind: str, shards: ShardSet) -> None:
    batches = loader(kind, shards)
    assert batches.epoch == 0
    for epoch, length in enumerate([3, 2, 2, 2]):
        assert (batches.epoch, len(batches)) == (epoch, length)
        assert len(list(batches)) == length


@every_loader
@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("batch_size", [1, 4, 9, 32])
def test_evaluation_yields_each_photograph_once_on_any_number_of_ranks(
    kind: str, shards: ShardSet, world_size: int, batch_size: int
) -> None:
    seen: list[int] = []
    for rank in range(world_size):
        part = loader(kind, shards, train=False, batch_size=batch_size, rank=rank, world_size=world_size, size=16)
        for _ in range(2):  # a second pass is the same as the first
            once = [index for batch in part for index in batch.index.tolist()]
        seen += once
    assert sorted(seen) == list(range(9))


@every_loader
def test_an_interrupted_evaluation_starts_again(kind: str, shards: ShardSet) -> None:
    batches = loader(kind, shards, train=False)
    first = contents(next(iter(batches)))
    assert batches.state_dict()["position"] == 0
    again = list(batches)
    assert contents(again[0]) == first
    assert len(again) == len(batches) == 3


@every_reading_loader
def test_evaluation_of_chosen_samples(kind: str, shards: ShardSet) -> None:
    everything = torch.cat([batch.L for batch in loader(kind, shards, train=False)])
    chosen = list(loader(kind, shards, train=False, samples=[7, 2, 5, 0, 8]))
    assert torch.cat([batch.index for batch in chosen]).tolist() == [7, 2, 5, 0, 8]
    assert torch.equal(torch.cat([batch.L for batch in chosen]), everything[[7, 2, 5, 0, 8]])


@every_reading_loader
def test_batches_do_not_share_memory(kind: str, shards: ShardSet) -> None:
    batches = loader(kind, shards)
    kept = []
    for batch in take(batches, 15):
        kept.append((batch, contents(batch)))
    assert all(contents(batch) == before for batch, before in kept)
    part = kept[0][0].L[1:3]  # also while only a part is kept
    before = part.clone()
    del kept, batch
    take(batches, 15)
    assert torch.equal(part, before)


@every_reading_loader
@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_a_global_batch_is_the_same_on_any_number_of_ranks(kind: str, shards: ShardSet, world_size: int) -> None:
    whole = take(loader(kind, shards, batch_size=6, parts=world_size), 7)
    parts = [take(loader(kind, shards, batch_size=6, rank=r, world_size=world_size), 7) for r in range(world_size)]
    for number, batch in enumerate(whole):
        shares = [part[number] for part in parts]
        assert torch.equal(torch.cat([share.index for share in shares]), batch.index)
        assert torch.equal(torch.cat([share.ab for share in shares]), batch.ab)


@pytest.mark.parametrize("kind", ["dali", "torch", "cached"])
@pytest.mark.parametrize(
    ("saved_on", "resumed_on"),
    [
        pytest.param(*pair, marks=[pytest.mark.slow] if pair != (2, 3) else [])
        for pair in itertools.product([1, 2, 3, 5], repeat=2)
    ],
)
def test_training_resumes_exactly_on_another_number_of_ranks(
    kind: str, shards: ShardSet, saved_on: int, resumed_on: int
) -> None:
    unbroken = [contents(batch) for batch in take(loader(kind, shards, batch_size=6), 12)]
    for stop in (1, 5):  # in the middle of epochs
        stopped = [loader(kind, shards, batch_size=6, rank=rank, world_size=saved_on) for rank in range(saved_on)]
        before = [take(part, stop) for part in stopped]
        assert [contents(*shares) for shares in zip(*before, strict=True)] == unbroken[:stop]
        state = json.loads(json.dumps(stopped[-1].state_dict()))
        resumed = [loader(kind, shards, batch_size=6, rank=rank, world_size=resumed_on) for rank in range(resumed_on)]
        for part in resumed:
            part.load_state_dict(state)
        after = [take(part, 12 - stop) for part in resumed]
        assert [contents(*shares) for shares in zip(*after, strict=True)] == unbroken[stop:]


KINDS = ("dali", "torch")
SCRIPT = """
import json, sys
from test_loaders import KINDS, contents, loader, take
from photochrom.pipelines import ShardSet
root, rank, world_size, number, states = sys.argv[1:]
for kind, state in zip(KINDS, json.loads(states)):
    part = loader(kind, ShardSet.open(root), batch_size=6, rank=int(rank), world_size=int(world_size))
    part.load_state_dict(state) if state else None
    print(json.dumps([[contents(batch) for batch in take(part, int(number))], part.state_dict()]))
"""


@pytest.mark.slow
def test_training_resumes_in_other_processes(shards: ShardSet) -> None:
    def run(world_size: int, number: int, states: list[Any]) -> tuple[list[list[Any]], list[Any]]:
        """Returns the batches of each kind, and the state of its first rank."""
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", SCRIPT, *map(str, (shards.root, rank, world_size, number)), json.dumps(states)],
                cwd=Path(__file__).parent,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(world_size)
        ]
        of_ranks = [map(json.loads, process.communicate(timeout=120)[0].splitlines()) for process in processes]
        wholes, stands = [], []
        for shares in zip(*of_ranks, strict=True):
            batches = zip(*(share[0] for share in shares), strict=True)
            wholes.append([sorted(map(tuple, itertools.chain.from_iterable(batch))) for batch in batches])
            stands.append(shares[0][1])
        return wholes, stands

    first, states = run(2, 4, [None, None])
    second, _ = run(3, 5, states)
    for kind, begun, gone_on in zip(KINDS, first, second, strict=True):
        assert begun + gone_on == [contents(batch) for batch in take(loader(kind, shards, batch_size=6), 9)]


@every_loader
def test_seeds_and_epochs_differ(kind: str, shards: ShardSet) -> None:
    first, second = take(loader(kind, shards, batch_size=9), 2)
    assert first.index.tolist() == second.index.tolist() == list(range(9))
    if kind != "synthetic":
        assert not torch.equal(first.L, second.L)
    assert not torch.equal(first.L, take(loader(kind, shards, batch_size=9, seed=1), 1)[0].L)


@every_loader
def test_the_state_of_other_data_or_settings_is_refused(kind: str, shards: ShardSet) -> None:
    state = loader(kind, shards).state_dict()
    with pytest.raises(ValueError, match=r"seed=0 then and 1 now, batch_size=4 then and 8 now"):
        loader(kind, shards, seed=1, batch_size=8).load_state_dict(state)
    with pytest.raises(ValueError, match="shuffle_block_size=1 then and 4 now"):
        loader(kind, shards, shuffle_block_size=4).load_state_dict(state)
    del state["fingerprint"]["shuffle_block_size"]  # saved by an older version
    with pytest.raises(ValueError, match="these differ: shuffle_block_size=unset then and 1 now; set them"):
        loader(kind, shards).load_state_dict(state)
    state["fingerprint"]["shards"] = "other"
    with pytest.raises(ValueError, match="shards=other then and"):
        loader(kind, shards).load_state_dict(state)


def test_a_state_is_valid_for_every_loader(shards: ShardSet) -> None:
    expected = [contents(batch) for batch in take(loader("dali", shards), 8)][3:]
    half_way = loader("dali", shards)
    take(half_way, 3)
    for kind in READING:
        other = loader(kind, shards, crop="random_resized")
        other.load_state_dict(half_way.state_dict())
        assert [[i for i, _ in contents(batch)] for batch in take(other, 5)] == [[i for i, _ in b] for b in expected]


def test_random_crops_larger_than_one_photograph_are_refused(shards: ShardSet) -> None:
    data = ShardSet.open(shards.root)
    data.sizes = data.sizes.copy()
    data.sizes[5] = 40, 200
    with pytest.raises(ValueError, match=r"crop=random cuts 64 pixels .* has a side of 40"):
        loader("torch", data, size=64, crop="random")


def test_crops_larger_than_the_packed_photographs_are_refused(shards: ShardSet) -> None:
    with pytest.raises(
        ValueError, match=r"crops of 128 pixels are larger than every .* short side is 96.*--short-side 128 or more"
    ):
        loader("torch", shards, size=128)


def test_random_crops_larger_than_a_photograph_are_refused(photos: Path, tmp_path: Path) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    Image.open(photos / "coffee.png").resize((60, 40)).save(source / "small.png")
    shutil.copy(photos / "coffee.png", source)
    pack(PackConfig(source=source, out=tmp_path / "out", workers=1))
    with pytest.raises(ValueError, match=r"the smallest in .* has a side of 40: lower the size, or use"):
        loader("torch", ShardSet.open(tmp_path / "out"), crop="random")


def test_samples_cannot_be_chosen_for_training(shards: ShardSet) -> None:
    with pytest.raises(ValueError, match="samples are chosen for evaluation only"):
        loader("torch", shards, samples=[0])


def test_training_on_the_first_samples(shards: ShardSet) -> None:
    batches = loader("torch", shards, num_samples=6)
    assert {index for batch in take(batches, 6) for index in batch.index.tolist()} == set(range(6))
    with pytest.raises(ValueError, match="num_samples=10 is for training, on at most 9 samples"):
        loader("torch", shards, num_samples=10)


def test_more_ranks_than_samples_in_a_batch_are_refused(shards: ShardSet) -> None:
    with pytest.raises(ValueError, match="a batch of 4 leaves some of 5 processes without a share"):
        loader("torch", shards, rank=4, world_size=5)


def test_cached_images_are_decoded_once(shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    sizes = shards.sizes.prod(axis=1) * 3
    half = loader("cached", shards, batch_size=9, train=False, cache_gib=float(sizes[:4].sum() + 1) / 2**30, threads=1)
    original = half._decode  # of this loader: others may still load ahead
    monkeypatch.setattr(half, "_decode", lambda i, *a: decoded.append(i) or original(i, *a))
    for _ in range(4):
        assert sum(map(len, half)) == 9
    counts = [decoded.count(i) for i in range(9)]
    assert counts[:4] == [1, 1, 1, 1]
    assert counts[4:] == [4] * 5


@every_reading_loader
def test_one_loader_can_be_read_twice_at_once(kind: str, shards: ShardSet) -> None:
    batches = loader(kind, shards, batch_size=2, train=False)
    first = iter(batches)
    begun = [next(first), next(first)]
    whole = list(batches)
    both = [[int(i) for batch in part for i in batch.index] for part in ([*begun, *first], whole)]
    assert both == [list(range(9))] * 2
    assert torch.equal(whole[1].ab, begun[1].ab)


def test_cached_images_are_read_once(shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    original = LocalReader.prefetch
    monkeypatch.setattr(LocalReader, "prefetch", lambda self, index: asked.extend(index) or original(self, index))
    cached = loader("cached", shards, batch_size=3, train=False)
    for _ in range(3):
        assert sum(map(len, cached)) == 9
    assert sorted(asked) == list(range(9))
    asked.clear()
    assert sum(map(len, loader("synthetic", shards, batch_size=3, train=False))) == 9
    assert asked == []
