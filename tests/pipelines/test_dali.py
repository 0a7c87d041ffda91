import hashlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from photochrom.losses import ab_histogram
from photochrom.pipelines import DaliLoader, LabBatch, PackConfig, ShardSet, dali, pack
from PIL import Image
from skimage.color import rgb2lab


def loader(shards: ShardSet, **settings: Any) -> DaliLoader:
    return DaliLoader(shards, **{"batch_size": 4, "size": 64, "train": True, "threads": 2, **settings})


def pillow(shards: ShardSet, index: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(shards.sample(index).jpeg())).convert("RGB"))


def fingerprint(batch: LabBatch) -> tuple[list[int], str]:
    pixels = torch.cat([batch.L, batch.ab], dim=1).cpu().numpy().tobytes()
    return batch.index.tolist(), hashlib.sha256(pixels).hexdigest()


def take(loader: DaliLoader, number: int) -> list[LabBatch]:
    batches: list[LabBatch] = []
    while len(batches) < number:
        for batch in loader:
            batches.append(batch)
            if len(batches) == number:
                break
    return batches


def test_lab_agrees_with_skimage_on_the_same_pixels(shards: ShardSet, device: torch.device) -> None:
    # A random crop without a resize: the very pixels of the stored photograph, mirrored or not.
    crops = loader(shards, crop="random", device=device)
    for number, batch in enumerate(take(crops, 5)):
        plan = crops.plan(number)
        assert batch.index.tolist() == plan.index.tolist()
        for i, (top, left, height, width) in enumerate(plan.window):
            pixels = pillow(shards, plan.index[i])[top : top + height, left : left + width]
            expected = rgb2lab(pixels[:, ::-1] if plan.flip[i] else pixels)
            lab = torch.cat([batch.L[i], batch.ab[i]]).permute(1, 2, 0).cpu().numpy()
            # On a GPU, nvJPEG's inverse transform differs from libjpeg-turbo's by a level here and there.
            tolerance = 1e-3 if device.type == "cpu" else 3.0
            assert np.abs(lab - expected).max() < tolerance


@pytest.mark.parametrize("crop", ["random_resized", "center", "squash"])
def test_windows_are_cut_resized_and_mirrored_as_planned(shards: ShardSet, crop: str) -> None:
    crops = loader(shards, crop=crop)
    for number, batch in enumerate(take(crops, 5)):
        plan = crops.plan(number)
        for i, (top, left, height, width) in enumerate(plan.window):
            window = Image.fromarray(pillow(shards, plan.index[i])).crop((left, top, left + width, top + height))
            pixels = np.asarray(window.resize((64, 64), Image.Resampling.BILINEAR))
            expected = rgb2lab(pixels[:, ::-1] if plan.flip[i] else pixels)
            # Two antialiasing linear filters, rounded to 8 bits differently; the mirror image would be far off.
            assert np.abs(batch.L[i, 0].numpy() - expected[..., 0]).mean() < 0.5


def test_shapes_types_and_ranges(shards: ShardSet, device: torch.device) -> None:
    batch = next(iter(loader(shards, device=device)))
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


def test_an_epoch_yields_len_batches_and_the_next_one_follows(shards: ShardSet) -> None:
    batches = loader(shards)
    assert batches.epoch == 0
    for epoch, length in enumerate([3, 2, 2, 2]):
        assert (batches.epoch, len(batches)) == (epoch, length)
        assert len(list(batches)) == length
    batches.set_epoch(1)
    assert batches.state_dict()["position"] == 12


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("batch_size", [1, 4, 9, 32])
def test_evaluation_yields_each_photograph_once_on_any_number_of_ranks(
    shards: ShardSet, world_size: int, batch_size: int
) -> None:
    seen: list[int] = []
    for rank in range(world_size):
        part = loader(shards, train=False, batch_size=batch_size, rank=rank, world_size=world_size, size=16)
        for _ in range(2):  # a second pass is the same as the first
            once = [index for batch in part for index in batch.index.tolist()]
        seen += once
    assert sorted(seen) == list(range(9))


def test_an_evaluation_that_was_broken_off_begins_anew(shards: ShardSet) -> None:
    batches = loader(shards, train=False)
    first = next(iter(batches))
    assert batches.state_dict()["position"] == 0
    again = list(batches)
    assert torch.equal(again[0].L, first.L)
    assert len(again) == len(batches) == 3


def test_evaluation_of_chosen_samples(shards: ShardSet) -> None:
    everything = torch.cat([batch.L for batch in loader(shards, train=False)])
    chosen = list(loader(shards, train=False, samples=[7, 2, 5, 0, 8]))
    assert torch.cat([batch.index for batch in chosen]).tolist() == [7, 2, 5, 0, 8]
    assert torch.equal(torch.cat([batch.L for batch in chosen]), everything[[7, 2, 5, 0, 8]])


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_a_global_batch_is_the_same_on_any_number_of_ranks(shards: ShardSet, world_size: int) -> None:
    whole = take(loader(shards, batch_size=6, parts=world_size), 7)
    parts = [take(loader(shards, batch_size=6, rank=rank, world_size=world_size), 7) for rank in range(world_size)]
    for number, batch in enumerate(whole):
        shares = [part[number] for part in parts]
        assert torch.equal(torch.cat([share.index for share in shares]), batch.index)
        assert torch.equal(torch.cat([share.ab for share in shares]), batch.ab)


@pytest.mark.parametrize("stop", [1, 2, 3, 7])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_stream_goes_on_exactly_on_any_number_of_ranks(shards: ShardSet, stop: int, world_size: int) -> None:
    unbroken = take(loader(shards, batch_size=6, parts=world_size), 12)
    stopped = loader(shards, batch_size=6, rank=0, world_size=2)
    take(stopped, stop)
    state = stopped.state_dict()
    parts = []
    for rank in range(world_size):
        part = loader(shards, batch_size=6, rank=rank, world_size=world_size)
        part.load_state_dict(state)
        parts.append(take(part, 12 - stop))
    for number, batch in enumerate(unbroken[stop:]):
        assert torch.equal(torch.cat([part[number].index for part in parts]), batch.index)
        assert torch.equal(torch.cat([part[number].L for part in parts]), batch.L)


def test_eras_leave_no_seam(shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    unbroken = [fingerprint(batch) for batch in take(loader(shards), 12)]
    monkeypatch.setattr(dali, "_MAX_SAMPLES", 9)
    assert [fingerprint(batch) for batch in take(loader(shards), 12)] == unbroken
    monkeypatch.setattr(dali, "_MAX_ENTRIES", 2)
    assert [fingerprint(batch) for batch in take(loader(shards), 12)] == unbroken


def test_seeds_and_epochs_differ(shards: ShardSet) -> None:
    first, second = take(loader(shards, batch_size=9), 2)
    assert first.index.tolist() == second.index.tolist() == list(range(9))
    assert not torch.equal(first.L, second.L)
    assert not torch.equal(first.L, take(loader(shards, batch_size=9, seed=1), 1)[0].L)


def test_the_state_of_other_data_or_settings_is_refused(shards: ShardSet) -> None:
    state = loader(shards).state_dict()
    with pytest.raises(ValueError, match=r"seed=0 then and 1 now, batch_size=4 then and 8 now"):
        loader(shards, seed=1, batch_size=8).load_state_dict(state)
    state["fingerprint"]["shards"] = "other"
    with pytest.raises(ValueError, match="shards=other then and"):
        loader(shards).load_state_dict(state)


def test_crops_larger_than_the_packed_photographs_are_refused(shards: ShardSet) -> None:
    with pytest.raises(
        ValueError, match=r"crops of 128 pixels are larger than every .* short side is 96.*--short-side 128 or more"
    ):
        loader(shards, size=128)


def test_random_crops_larger_than_a_photograph_are_refused(photos: Path, tmp_path: Path) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    Image.open(photos / "coffee.png").resize((60, 40)).save(source / "small.png")
    shutil.copy(photos / "coffee.png", source)
    pack(PackConfig(source=source, out=tmp_path / "out", workers=1), ab_histogram=ab_histogram)
    with pytest.raises(ValueError, match=r"the smallest in .* has a side of 40: lower the size, or use"):
        loader(ShardSet.open(tmp_path / "out"), crop="random")


def test_samples_cannot_be_chosen_for_training(shards: ShardSet) -> None:
    with pytest.raises(ValueError, match="samples are chosen for evaluation only"):
        loader(shards, samples=[0])


def test_a_shard_damaged_since_it_was_opened_stops_with_its_name(photos: Path, tmp_path: Path) -> None:
    pack(PackConfig(source=photos, out=tmp_path / "out", short_side=96, workers=2), ab_histogram=ab_histogram)
    tar = tmp_path / "out" / "photos-000000.tar"
    sample = ShardSet.open(tmp_path / "out").sample(3)
    with open(tar, "r+b") as file:
        file.seek(sample.jpeg_offset)
        file.write(bytes(sample.jpeg_bytes))
    with pytest.raises(
        ValueError, match=r"sample 3 of .*, in photos-000000\.tar, cannot be read any more \(.*\): pack again"
    ):
        list(loader(ShardSet.open(tmp_path / "out"), batch_size=9, train=False))


def test_without_dali_a_sentence_says_what_to_install(shards: ShardSet) -> None:
    code = (
        "import sys; sys.modules['nvidia.dali'] = None\n"
        "from photochrom.pipelines import DaliLoader\n"
        f"DaliLoader({str(shards.root)!r}, batch_size=1, size=64, train=False)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert "pip install 'photochrom[cuda13]'" in done.stderr.splitlines()[-1]


def test_reading_leaves_no_files_behind(shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dali, "IN_MEMORY", str(tmp_path))
    take(loader(shards), 3)
    assert list(tmp_path.iterdir()) == []
