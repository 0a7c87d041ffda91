"""Shard sets of Lab in bytes: their colours, their readers, and checks for damage."""

import hashlib
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from photochrom.engine.commands import stats, verify
from photochrom.pipelines import DaliLoader, PackConfig, ShardSet, TorchLoader, pack
from photochrom.pipelines.imaging.color import _ROWS, rgb_to_lab_uint8
from photochrom.pipelines.imaging.decode import decode
from photochrom.pipelines.imaging.encode import EncodingSettings, resize
from photochrom.pipelines.packing.process_image import EncodedImage, ProcessedFile, encode_image
from photochrom.pipelines.packing.shard_writer import ShardWriter
from photochrom.pipelines.packing.verify import VerifyConfig
from skimage.color import rgb2lab

HALF_STEPS = np.array([0.5 * 100 / 255, 0.5, 0.5]).reshape(3, 1, 1) + 1e-3  # and what the kernel may be off


def packed(source: Path, out: Path, **settings: Any) -> ShardSet:
    config = PackConfig(
        source=source, out=out, **{"store": "lab", "short_side": 96, "shard_samples": 4, "workers": 2, **settings}
    )
    pack(config)
    return ShardSet.open(out)


def digests(shards: ShardSet) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in shards.root.glob("photos-*")}


@pytest.fixture(scope="module")
def lab(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """The nine photographs as Lab, packed as `shards` otherwise is."""
    return packed(photos, tmp_path_factory.mktemp("packed") / "lab")


def off(stored: bytes, pixels: np.ndarray) -> np.ndarray:
    """Returns the error of stored Lab against that of the pixels by scikit-image, in float64."""
    height, width, _ = pixels.shape
    codes = np.frombuffer(stored, np.uint8).reshape(3, height, width).astype(float)
    codes[0] *= 100 / 255
    codes[1:] -= 128
    return np.abs(codes - rgb2lab(pixels).transpose(2, 0, 1))


def test_what_is_stored_is_the_lab_of_the_reduced_photograph(lab: ShardSet, photos: Path) -> None:
    for i in range(9):
        sample = lab.sample(i)
        pixels, _, _ = decode((photos / sample.path).read_bytes(), 96)
        assert (off(sample.read(), resize(pixels, sample.size)) <= HALF_STEPS).all()
        assert sample.class_name == ("garage" if "motorcycle" in sample.path else "")


@pytest.mark.parametrize("height", [1, _ROWS - 1, _ROWS, 2 * _ROWS + 1])
def test_every_row_of_a_picture_is_converted(height: int) -> None:
    pixels = np.random.default_rng(height).integers(0, 256, (height, 33, 3), np.uint8)
    pixels[-1, -1], pixels[0, 0] = 255, 0
    codes = rgb_to_lab_uint8(pixels)
    assert (off(codes.tobytes(), pixels) <= HALF_STEPS).all()
    assert codes[:, -1, -1].tolist() == [255, 128, 128]
    assert codes[:, 0, 0].tolist() == [0, 128, 128]


def test_all_else_is_as_in_a_set_of_jpegs(lab: ShardSet, shards: ShardSet) -> None:
    assert lab.store == "lab"
    assert shards.store == "jpeg"
    assert lab.manifest["image"] == {"store": "lab", "short_side": 96, "resampler": "bicubic"}
    for name in ("counts", "classes", "ab_histogram", "seed"):
        assert lab.manifest[name] == shards.manifest[name]
    assert np.array_equal(lab.sizes, shards.sizes)
    for i in range(9):
        stored_lab, stored_jpeg = lab.sample(i), shards.sample(i)
        assert (stored_lab.key, stored_lab.path, stored_lab.class_name, stored_lab.size) == (
            stored_jpeg.key,
            stored_jpeg.path,
            stored_jpeg.class_name,
            stored_jpeg.size,
        )
        assert stored_lab.num_bytes == len(stored_lab.read()) == 3 * stored_lab.size[0] * stored_lab.size[1]


def test_statistics_are_those_of_the_pixels_however_they_are_stored(photos: Path) -> None:
    data = (photos / "retina.jpg").read_bytes()
    jpeg, lab = (encode_image(data, EncodingSettings(store=store)) for store in ("jpeg", "lab"))
    assert np.array_equal(jpeg.ab_codes, lab.ab_codes)
    assert np.array_equal(jpeg.ab_counts, lab.ab_counts)
    assert (jpeg.changes, lab.changes) == ((), ("to Lab",))


def test_bytes_depend_on_neither_the_workers_nor_the_kind_of_source(
    lab: ShardSet, photos: Path, tmp_path: Path
) -> None:
    assert digests(packed(photos, tmp_path / "one", workers=1)) == digests(lab)
    with tarfile.open(tmp_path / "photos.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(photos, "")
    assert digests(packed(tmp_path / "photos.tar.gz", tmp_path / "stream")) == digests(lab)


def test_original_sizes_can_be_kept(photos: Path, tmp_path: Path) -> None:
    data = packed(photos / "garage", tmp_path / "out", short_side="none")
    for i in range(2):
        sample = data.sample(i)
        pixels, size, _ = decode((photos / "garage" / sample.path).read_bytes(), None)
        assert sample.size == size
        assert (off(sample.read(), pixels) <= HALF_STEPS).all()


def test_nothing_is_decoded_by_dali(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("photochrom.pipelines.packing.pack.DaliCheck")
    assert packed(photos, tmp_path / "out").num_samples == 9


def test_numba_is_loaded_for_lab_alone(photos: Path) -> None:
    code = (
        "import sys; from photochrom.pipelines.packing.process_image import EncodingSettings, encode_image\n"
        f"data = open({str(photos / 'rocket.jpg')!r}, 'rb').read()\n"
        "for store in ('jpeg', 'lab'):\n"
        "    encode_image(data, EncodingSettings(short_side=64, store=store))\n"
        "    print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_loaders_agree_on_lab_exactly(lab: ShardSet) -> None:
    settings: dict[str, Any] = {"batch_size": 4, "size": 64, "train": True, "crop": "random", "threads": 2}
    for by_dali, by_torch in zip(DaliLoader(lab, **settings), TorchLoader(lab, **settings), strict=True):
        assert torch.equal(by_dali.index, by_torch.index)
        assert torch.equal(by_dali.L, by_torch.L)
        assert torch.equal(by_dali.ab, by_torch.ab)


@pytest.mark.parametrize("make", [DaliLoader, TorchLoader])
@pytest.mark.parametrize("crop", ["random", "random_resized", "squash"])
def test_a_set_of_lab_shows_the_pictures_of_a_set_of_jpegs(
    make: Any, crop: str, lab: ShardSet, shards: ShardSet
) -> None:
    settings: dict[str, Any] = {"batch_size": 4, "size": 64, "crop": crop, "threads": 2}
    settings["train"] = crop != "squash"
    num_seen = 0
    for from_lab, from_jpeg in zip(make(lab, **settings), make(shards, **settings), strict=True):
        assert torch.equal(from_lab.index, from_jpeg.index)
        # What the JPEG loses of small photographs, and that the one is resize in Lab and the other in sRGB.
        assert (from_lab.L - from_jpeg.L).abs().mean() < 1.0
        assert (from_lab.ab - from_jpeg.ab).abs().mean() < 1.5
        num_seen += len(from_lab.index)
    assert num_seen >= 9


def test_webdataset_reads_it(lab: ShardSet) -> None:
    import webdataset

    urls = [str(lab.root / f"{shard.name}.tar") for shard in lab.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == [lab.sample(i).key for i in range(9)]
    for i, sample in enumerate(samples):
        assert sample["lab"] == lab.sample(i).read()
        assert len(sample["lab"]) == 3 * sample["json"]["height"] * sample["json"]["width"]


def test_verify_decode_names_lab_of_another_length(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def store(writer: ShardWriter, outcome: ProcessedFile, photo: EncodedImage) -> None:
        if outcome.path == "coffee.png":  # a packer with a fault: all hashes will be as they should be
            photo = replace(photo, data=photo.data[:-1])
        kept(writer, outcome, photo)

    kept = ShardWriter._store
    monkeypatch.setattr(ShardWriter, "_store", store)
    data = packed(photos, tmp_path / "out")
    assert verify.verify(VerifyConfig(root=data.root)) == []
    (problem,) = verify.verify(VerifyConfig(root=data.root, decode=True))
    (coffee,) = (sample for sample in map(data.sample, range(9)) if sample.path == "coffee.png")
    (width, height), right = coffee.size, 3 * coffee.size[0] * coffee.size[1]
    says = f"{coffee.key}.lab has {right - 1:,} bytes, where {width}x{height} takes {right:,}"
    assert problem == f"{coffee.tar}: {says}"


def test_verify_names_damage_and_says_that_all_is_whole(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = packed(photos, tmp_path / "out")
    assert verify.main([str(data.root), "--decode"]) == 0
    assert capsys.readouterr().out.endswith("3 shards as the manifest says, and all 9 photographs are whole\n")
    sample = data.sample(5)
    with open(sample.tar, "r+b") as file:
        file.seek(sample.offset)
        file.write(bytes([sample.read()[0] ^ 1]))
    assert verify.main([str(data.root), "--decode"]) == 1
    assert capsys.readouterr().out == f"{sample.tar} has other content than when the manifest was written\n"


def test_stats_say_what_a_photograph_takes(lab: ShardSet, capsys: pytest.CaptureFixture[str]) -> None:
    assert stats.main([str(lab.root)]) == 0
    mean = 3 * lab.sizes.prod(axis=1).mean()
    assert f"{mean / 1e3:.1f} KB per photograph, as Lab" in capsys.readouterr().out


def test_lab_is_no_source(lab: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no photograph that can be packed; of its 18 files: 18 not an image"):
        packed(lab.root, tmp_path / "again")


@pytest.mark.parametrize("loader", [DaliLoader, TorchLoader])
def test_a_member_of_another_length_stops_a_loader_with_its_name(lab: ShardSet, loader: Any) -> None:
    shards = ShardSet.open(lab.root)
    shards.byte_ranges[5, 1] -= 1
    batches = loader(shards, batch_size=2, size=64, train=False, threads=1)
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"sample 5 of .* cannot be read any more \([\d,]+ bytes of Lab where \d+x96"
        ):
            list(batches)
