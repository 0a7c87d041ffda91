import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from photochrom.pipelines import ShardSet
from PIL import Image


@pytest.fixture
def copied(shards: ShardSet, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards.root, tmp_path / "set"))


def test_every_sample_can_be_looked_up(shards: ShardSet, photos: Path) -> None:
    samples = [shards.sample(i) for i in range(shards.num_samples)]
    assert sorted(sample.path for sample in samples) == sorted(
        path.relative_to(photos).as_posix() for path in photos.rglob("*") if path.is_file()
    )
    for sample in samples:
        stored = Image.open(io.BytesIO(sample.read()))
        assert stored.size == sample.size
        assert shards.sizes[sample.index].tolist() == [stored.height, stored.width]
        assert min(stored.size) == 96
        assert sample.class_name == ("garage" if "motorcycle" in sample.path else "")
        assert len(sample.key) <= 80
        assert sample.key.isascii()
        assert "." not in sample.key
    assert len({sample.key for sample in samples}) == shards.num_samples == 9


def test_samples_know_their_shard(shards: ShardSet) -> None:
    assert [shard.samples for shard in shards.shards] == [4, 4, 1]
    assert shards.shard_of(np.arange(9)).tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2]


def test_index_outside_the_set(shards: ShardSet) -> None:
    with pytest.raises(IndexError, match="sample 9 of 9"):
        shards.sample(9)


def test_the_prior_is_a_distribution_over_the_bins(shards: ShardSet) -> None:
    assert shards.prior.shape == (313,)
    assert shards.prior.sum() == pytest.approx(1)
    assert (shards.prior >= 0).all()


def test_the_index_is_that_of_dali_s_own_tool(shards: ShardSet, tmp_path: Path) -> None:
    from wds2idx import IndexCreator

    for shard in shards.shards:
        expected = tmp_path / f"{shard.name}.idx"
        creator = IndexCreator(str(shards.root / f"{shard.name}.tar"), str(expected), verbose=False)
        creator.create_index()
        creator.close()
        assert (shards.root / f"{shard.name}.idx").read_text() == expected.read_text()


def test_the_tars_are_webdataset_shards(shards: ShardSet) -> None:
    import webdataset

    urls = [str(shards.root / f"{shard.name}.tar") for shard in shards.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert [sample["__key__"] for sample in samples] == [shards.sample(i).key for i in range(9)]
    assert samples[0]["jpg"].size == shards.sample(0).size
    assert samples[0]["json"]["path"] == shards.sample(0).path


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no shard set at .*nowhere: make one with 'photochrom pack"):
        ShardSet.open(tmp_path / "nowhere")


def test_a_folder_without_manifest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a shard set, it has no manifest\.json"):
        ShardSet.open(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "\xff"])
def test_a_damaged_manifest(copied: Path, text: str) -> None:
    (copied / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"manifest\.json (is damaged|cannot be read as JSON).*pack again"):
        ShardSet.open(copied)


@pytest.mark.parametrize("key", ["shards", "ab_histogram"])
def test_a_manifest_that_lacks_something(copied: Path, key: str) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    del manifest[key]
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=rf"manifest\.json is damaged \(its content: {key}: Field required\)"):
        ShardSet.open(copied)
    manifest[key] = [{"name": "photos-000000"}] if key == "shards" else "none"
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        ShardSet.open(copied)


def test_a_manifest_of_another_format(copied: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(ValueError, match="has shard format 99, this photochrom reads format 2"):
        ShardSet.open(copied)


@pytest.mark.parametrize("name", ["photos-000001.tar", "photos-000001.idx"])
def test_a_shard_that_is_missing_or_changed_is_named(copied: Path, name: str) -> None:
    path = copied / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{name} has \d+ bytes where the manifest says \d+"):
        ShardSet.open(copied)
    path.unlink()
    with pytest.raises(ValueError, match=f"{name} is missing"):
        ShardSet.open(copied)


@pytest.mark.parametrize("name", ["/etc/passwd", "../set/photos-000000", "..", "", "a/b", "a\0b"])
def test_a_shard_outside_of_the_folder_is_refused(copied: Path, name: str) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["shards"][0]["name"] = name
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"manifest\.json is damaged .* is not the name of a file in the set's folder"):
        ShardSet.open(copied)


@pytest.mark.parametrize(
    ("shard", "sentence"),
    [
        ({"samples": -1}, "sizes of some samples of photos-000000 are missing"),
        ({"samples": "4.5"}, "shards.0.samples: it should be a valid integer"),
        ({"sizes": "0x96 96x96 96x96 96x96"}, "sizes of some samples of photos-000000 are missing"),
        ({"sizes": "96x96 96x96 96x96 9999999x96"}, "sizes of some samples of photos-000000 are missing"),
        ({"sizes": [96]}, "shards.0.sizes: it should be a valid string"),
        ({"name": "photos-000001"}, "two shards have one name"),
    ],
)
def test_a_manifest_of_odd_types_and_sizes_is_refused(copied: Path, shard: dict[str, object], sentence: str) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["shards"][0] |= shard
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=f"manifest.json is damaged .*{sentence}"):
        ShardSet.open(copied)


@pytest.mark.parametrize("line", ["jpg 0 999999999999 x", "jpg -1 5 x", "jpg 0 nan x", "lab 0 5 x", "jpg 0 5", ""])
def test_an_index_that_points_elsewhere_is_refused(copied: Path, line: str) -> None:
    index = copied / "photos-000000.idx"
    index.write_text("\n".join([*index.read_text().splitlines()[:-1], line, ""]))
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["shards"][0]["index_bytes"] = index.stat().st_size
    (copied / "manifest.json").write_text(json.dumps(manifest))
    for use in (lambda data: data.byte_ranges, lambda data: data.sample(3)):
        with pytest.raises(ValueError, match=r"photos-000000\.idx is damaged .*: pack again"):
            use(ShardSet.open(copied))
