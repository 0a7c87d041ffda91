import csv
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from photochrom.losses.quantization import ab_bins
from photochrom.pipelines import PackConfig, ShardSet, output_dir, pack
from photochrom.pipelines.files import exclusive_lock
from photochrom.pipelines.packing import shard_writer
from photochrom.pipelines.packing.dali_check import DaliCheck, Samples
from photochrom.pipelines.packing.manifest import write_manifest
from photochrom.pipelines.packing.members import SourceFile
from photochrom.pipelines.packing.process_image import EncodedImage, ProcessedFile, sort_key
from photochrom.pipelines.packing.shard_writer import ShardWriter, key_of
from photochrom.pipelines.packing.sources import list_files
from photochrom.pipelines.packing.tar_writer import TarShard
from photochrom.pipelines.shards import WORK
from PIL import Image
from scipy.spatial import cKDTree
from skimage.color import rgb2lab


def packed(source: Path, out: Path, **settings: object) -> dict:
    config = PackConfig(source=source, out=out, **{"short_side": 64, "workers": 1, "shard_samples": 4, **settings})
    return pack(config)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def messy(photos: Path, tmp_path: Path) -> Path:
    """The nine photographs among what else a folder holds."""
    folder = Path(shutil.copytree(photos, tmp_path / "messy"))
    coffee = Image.open(folder / "coffee.png")
    coffee.convert("L").save(folder / "grey.jpg")
    (folder / "readme.txt").write_text("no photograph")
    (folder / "empty.jpg").touch()
    (folder / "strange näme, with\nnewline.v2.JPG").write_bytes((folder / "rocket.jpg").read_bytes())
    (folder / "cut.jpg").write_bytes((folder / "rocket.jpg").read_bytes()[:-500])
    Image.new("RGB", (8, 8), "red").save(folder / "icon.png")
    return folder


def test_nothing_is_lost_silently(messy: Path, tmp_path: Path) -> None:
    summary = packed(messy, tmp_path / "out")
    num_files = sum(path.is_file() for path in messy.rglob("*"))
    assert summary["num_packed"] == 10
    assert summary["num_packed"] + summary["num_dropped"] + summary["num_rejected"] == num_files == 15
    assert summary["dropped"] == {"grey": 1}
    with open(tmp_path / "out" / "rejects.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["path"], row["reason"]) for row in rows] == [
        ("cut.jpg", "damaged JPEG"),
        ("empty.jpg", "empty file"),
        ("icon.png", "too small"),
        ("readme.txt", "not an image"),
    ]
    paths = {ShardSet.open(tmp_path / "out").sample(i).path for i in range(10)}
    assert "strange näme, with\nnewline.v2.JPG" in paths
    assert "garage/motorcycle_left.png" in paths


def test_grey_photographs_can_be_kept(messy: Path, tmp_path: Path) -> None:
    assert packed(messy, tmp_path / "out", keep_grey=True)["num_packed"] == 11


def test_the_manifest_says_what_was_done(photos: Path, tmp_path: Path) -> None:
    packed(photos, tmp_path / "out", seed=3)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["seed"] == 3
    assert manifest["source"] == str(photos)
    assert manifest["image"] == {
        "store": "jpeg",
        "short_side": 64,
        "resampler": "bicubic",
        "quality": 95,
        "subsampling": "4:4:4",
        "decoded_by_dali": True,
    }
    assert manifest["counts"] == {"packed": 9, "grey": 0, "duplicates": 0, "dropped": {}, "rejected": {}}
    assert manifest["classes"] == {"": 7, "garage": 2}
    assert [shard["samples"] for shard in manifest["shards"]] == [4, 4, 1]
    for shard in manifest["shards"]:
        tar = tmp_path / "out" / f"{shard['name']}.tar"
        assert shard["sha256"] == hashlib.sha256(tar.read_bytes()).hexdigest()
        assert shard["index_sha256"] == hashlib.sha256(tar.with_suffix(".idx").read_bytes()).hexdigest()


def test_the_prior_is_that_of_the_photographs(photos: Path, tmp_path: Path) -> None:
    source = tmp_path / "three"
    source.mkdir()
    for name in ("chelsea.png", "coffee.png", "retina.jpg"):
        shutil.copy(photos / name, source)
    packed(source, tmp_path / "out", short_side="none")
    # Written again in NumPy float64: every 4th pixel, its 5 nearest bins, a Gaussian of width 5.
    expected = np.zeros(313)
    bins = ab_bins().double().numpy()
    for path in source.iterdir():
        ab = rgb2lab(np.asarray(Image.open(path).convert("RGB")))[::4, ::4, 1:].reshape(-1, 2)
        distance, nearest = cKDTree(bins).query(ab, k=5)
        weight = np.exp(-(distance**2) / 50)
        np.add.at(expected, nearest, weight / weight.sum(axis=1, keepdims=True))
    expected /= expected.sum()
    # The packer rounds colours to one Lab unit, which moves less than 1 % of the mass, by one bin.
    assert np.abs(ShardSet.open(tmp_path / "out").prior - expected).sum() / 2 < 0.01


def test_the_order_is_the_seed_s(photos: Path, tmp_path: Path) -> None:
    files = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.*"))
    for seed in (0, 1):
        packed(photos, tmp_path / str(seed), seed=seed)
        shards = ShardSet.open(tmp_path / str(seed))
        assert [shards.sample(i).path for i in range(9)] == sorted(files, key=lambda path: sort_key(path, seed))


def test_bytes_do_not_depend_on_the_number_of_workers(messy: Path, tmp_path: Path) -> None:
    packed(messy, tmp_path / "one", workers=1)
    packed(messy, tmp_path / "three", workers=3)
    assert digests(tmp_path / "one") == digests(tmp_path / "three")


def test_original_sizes_can_be_kept(photos: Path, tmp_path: Path) -> None:
    packed(photos, tmp_path / "out", short_side="none")
    shards = ShardSet.open(tmp_path / "out")
    assert shards.manifest["image"]["short_side"] is None
    for i in range(9):
        sample = shards.sample(i)
        with Image.open(photos / sample.path) as original:
            assert sample.size == original.size
        if sample.path == "retina.jpg":
            assert sample.read() == (photos / "retina.jpg").read_bytes()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: None, "there is no folder or archive"),
        (lambda path: path.write_text("a file"), "is neither a folder nor an archive"),
        (lambda path: path.mkdir(), "holds no files"),
    ],
)
def test_a_source_that_holds_nothing(tmp_path: Path, make: object, sentence: str) -> None:
    source = tmp_path / "source"
    make(source)
    with pytest.raises(ValueError, match=sentence):
        packed(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_readable_photograph_leaves_nothing_behind(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.txt").write_text("text")
    Image.new("RGB", (64, 64), "grey").save(source / "b.png")
    with pytest.raises(ValueError, match=r"of its 2 files: 1 not an image, 1 grey \(--keep-grey packs them\)"):
        packed(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_target_in_use_is_left_alone(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("dear")
    with pytest.raises(ValueError, match=r"is not empty \(it holds diary.txt\)"):
        packed(photos, tmp_path)
    assert (tmp_path / "diary.txt").read_text() == "dear"
    packed(photos, tmp_path / "out")
    before = digests(tmp_path / "out")
    with pytest.raises(
        ValueError, match=r"is not empty .* and holds no unfinished pack, perhaps a finished one: name a new folder"
    ):
        packed(photos, tmp_path / "out")
    assert digests(tmp_path / "out") == before


def test_a_target_that_cannot_be_written(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file: name a new folder"):
        packed(photos, tmp_path / "file")
    with pytest.raises(ValueError, match=r"cannot write to .*file/below: Not a directory"):
        packed(photos, tmp_path / "file" / "below")
    with pytest.raises(ValueError, match="cannot write to /proc/photochrom: No such file or directory"):
        packed(photos, Path("/proc/photochrom"))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"short_side": 31}, "--short-side 31 is below 32"),
        ({"quality": 0}, "--quality 0 is not between 1 and 100"),
        ({"store": "lab", "quality": 90}, "--quality and --subsampling have no effect on --store lab"),
        ({"store": "lab", "subsampling": "420"}, "--quality and --subsampling have no effect on --store lab"),
        ({"workers": 0}, "--workers 0 is not a positive number"),
        ({"seed": -1}, "--seed -1 is negative"),
        ({"shard_samples": 0}, "--shard-samples 0 is not a positive number"),
    ],
)
def test_settings_out_of_range(settings: dict, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        PackConfig(source=tmp_path, out=tmp_path, **settings)


@pytest.mark.parametrize(
    "kill", [signal.SIGKILL, *(pytest.param(kill, marks=pytest.mark.slow) for kill in (signal.SIGINT, signal.SIGTERM))]
)
def test_a_killed_pack_is_done_again_by_the_same_command(photos: Path, tmp_path: Path, kill: signal.Signals) -> None:
    source = tmp_path / "many"
    source.mkdir()
    for i in range(120):
        shutil.copy(photos / "rocket.jpg", source / f"{i}.jpg")
    command = [sys.executable, "-m", "photochrom", "pack", str(source), str(tmp_path / "out"), "--workers", "1"]
    command += ["--short-side", "64", "--shard-samples", "10"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (tmp_path / "out" / "photos-000001.tar").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    if kill == signal.SIGTERM:
        process.terminate()
    else:
        os.killpg(process.pid, kill)
    _, errors = process.communicate(timeout=60)
    if kill != signal.SIGKILL:
        assert process.returncode == 130
        assert errors.strip() == (
            "photochrom pack: interrupted: what is finished is kept, and the same command continues from there"
        )
        assert not list((tmp_path / "out" / WORK).rglob("photos-*.tar")), "half a shard"
    assert not (tmp_path / "out" / "manifest.json").exists()
    first = (tmp_path / "out" / "photos-000000.tar").stat().st_mtime_ns
    again = packed(source, tmp_path / "out", shard_samples=10)
    assert (tmp_path / "out" / "photos-000000.tar").stat().st_mtime_ns == first, "finished shards are not made again"
    assert again["num_resumed"] >= 10
    packed(source, tmp_path / "calm", shard_samples=10)
    unlike = {"config.yaml", "summary.json"}
    hashes = {name: digest for name, digest in digests(tmp_path / "out").items() if name not in unlike}
    assert hashes == digests(tmp_path / "calm")


def test_a_folder_belongs_to_one_pack_at_a_time(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / WORK).mkdir()
    (out / "photos-000000.tar").touch()  # of a shard that has no journal yet
    with (
        exclusive_lock(out),
        pytest.raises(ValueError, match=r"another process is writing to .*: wait for it, or name"),
    ):
        packed(photos, out)
    assert len(list(out.iterdir())) == 2
    packed(photos, out)  # what is there is marked as that of a pack that was killed
    assert not (out / WORK).exists()
    assert ShardSet.open(out).num_samples == 9


def test_a_pack_that_is_stopped_after_its_manifest_keeps_it(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: object, **facts: object) -> None:
        write_manifest(*arguments, **facts)
        raise KeyboardInterrupt

    monkeypatch.setattr("photochrom.pipelines.packing.pack.write_manifest", stopped)
    with pytest.raises(KeyboardInterrupt):
        packed(photos, tmp_path / "out")
    assert ShardSet.open(tmp_path / "out").num_samples == 9
    before = digests(tmp_path / "out").keys()
    monkeypatch.undo()
    packed(photos, tmp_path / "out")
    assert digests(tmp_path / "out").keys() == before
    assert not (tmp_path / "out" / WORK).exists()


def test_shards_that_are_nobody_s_leftovers_are_left_alone(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "photos-000000.tar").write_bytes(b"a tar from elsewhere")
    with pytest.raises(ValueError, match=r"is not empty \(it holds photos-000000.tar\)"):
        packed(photos, tmp_path)
    assert digests(tmp_path).keys() == {"photos-000000.tar"}


def test_the_target_cannot_lie_in_the_source(photos: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(photos, tmp_path / "in"))
    for out in (source, source / "garage" / "out"):
        with pytest.raises(ValueError, match=r"lies in .*, which it is packed from: name a folder elsewhere"):
            packed(source, out)
    assert not (source / "garage" / "out").exists()


def test_links_to_folders_are_followed_but_not_in_circles(photos: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "linked").symlink_to(photos)
    (source / "again").symlink_to(source)
    for name, other in (("a", "b"), ("b", "a")):
        (source / name).mkdir()
        shutil.copy(photos / "coffee.png", source / name)
        (source / name / "other").symlink_to(source / other)
    packed(source, tmp_path / "out")
    classes = ShardSet.open(tmp_path / "out").manifest["classes"]
    assert classes == {"linked": 7, "linked/garage": 2, "a": 1, "b": 1, "a/other": 1, "b/other": 1}


def test_tars_hold_no_trace_of_time_or_user(photos: Path, tmp_path: Path) -> None:
    packed(photos, tmp_path / "out")
    with tarfile.open(tmp_path / "out" / "photos-000000.tar") as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar} == {(0, 0, 0, "photochrom", "photochrom")}


@pytest.mark.parametrize(("name", "value"), [("seed", 1), ("short_side", 65), ("quality", 90)])
def test_an_interrupted_pack_is_not_finished_with_other_settings(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: int
) -> None:
    interrupt_after_a_shard(photos, tmp_path / "out", monkeypatch)
    before = digests(tmp_path / "out")
    with pytest.raises(ValueError, match=rf"with other settings or files \({name}: .* -> {value}\): set"):
        packed(photos, tmp_path / "out", **{name: value})
    assert digests(tmp_path / "out") == before
    assert packed(photos, tmp_path / "out", workers=2)["num_resumed"] == 4


def test_an_interrupted_pack_is_not_finished_from_another_source(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(shutil.copytree(photos, tmp_path / "in"))
    interrupt_after_a_shard(source, tmp_path / "out", monkeypatch)
    shutil.copy(source / "coffee.png", source / "another.png")
    with pytest.raises(ValueError, match=r"other settings or files .files: 9 files .* -> 10 files"):
        packed(source, tmp_path / "out")


def interrupt_after_a_shard(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        finish_shard = ShardWriter._finish_shard

        def once(writer: ShardWriter, tar: TarShard) -> None:
            if writer.shards or writer._pending:
                writer._publish_pending()
                raise KeyboardInterrupt
            finish_shard(writer, tar)

        patch.setattr(ShardWriter, "_finish_shard", once)
        with pytest.raises(KeyboardInterrupt):
            packed(source, out)
    assert (out / "photos-000000.tar").exists()


def test_a_decoder_that_crashes_or_hangs_loses_its_file_only(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(name: str, code: str) -> SourceFile:
        # Reading evaluates the code: a function that every worker knows, and that can do anything.
        content: Any = SimpleNamespace(read=partial(eval, code))
        return SourceFile(path=name, class_name="", content=content)

    faults = [
        fault("CRASH.jpg", "__import__('os').kill(__import__('os').getpid(), 11)"),
        fault("HANG.jpg", "__import__('time').sleep(600)"),
    ]
    listed = "photochrom.pipelines.packing.pack.list_files"
    monkeypatch.setattr(listed, lambda source, unread: [*list_files(source, unread), *faults])
    packed(photos, tmp_path / "out", workers=2, time_limit=1.5)
    with open(tmp_path / "out" / "rejects.csv", newline="") as file:
        assert list(csv.reader(file))[1:] == [
            ["CRASH.jpg", "crashed the decoder", "SIGSEGV"],
            ["HANG.jpg", "hung the decoder", "no result after 1.5 s"],
        ]
    assert ShardSet.open(tmp_path / "out").num_samples == 9


def test_what_dali_refuses_is_left_out_before_a_shard_appears(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the encoder had a fault: one stored picture ends in the middle, another has a wrong size.
    def store(writer: ShardWriter, outcome: ProcessedFile, photo: EncodedImage) -> None:
        if outcome.path == "coffee.png":
            photo = dataclasses.replace(photo, data=photo.data[: len(photo.data) // 2])
        if outcome.path == "chelsea.png":
            photo = dataclasses.replace(photo, size=(64, 65))
        kept(writer, outcome, photo)

    kept = ShardWriter._store
    monkeypatch.setattr(ShardWriter, "_store", store)
    summary = packed(photos, tmp_path / "out")
    assert summary["rejected"] == {"refused by DALI": 2}
    shards = ShardSet.open(tmp_path / "out")
    assert {shards.sample(i).path for i in range(7)}.isdisjoint({"coffee.png", "chelsea.png"})
    assert shards.manifest["counts"]["packed"] == shards.num_samples == 7
    with open(tmp_path / "out" / "rejects.csv", newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert rows[0][2].startswith("decoded to ")
    assert rows[0][2].endswith(" where 64x65 was stored")
    assert "coffee" in "".join(rows[1])


def test_a_full_disk_leaves_no_half_shard_and_is_no_end(photos: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for i in range(60):
        shutil.copy(photos / "rocket.jpg", source / f"{i}.jpg")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("a small disk can only be mounted by root")
    try:
        with pytest.raises(ValueError, match=r"cannot write to .*: No space left on device; finished shards are kept"):
            packed(source, disk / "out", short_side=200, shard_samples=10)
        finished = {path.name for path in (disk / "out").glob("photos-*")}
        assert {"photos-000000.tar", "photos-000000.idx"} <= finished
        assert not list((disk / "out" / WORK).rglob("photos-*.tar"))
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        packed(source, disk / "out", short_side=200, shard_samples=10)
        packed(source, tmp_path / "calm", short_side=200, shard_samples=10)
        assert digests(disk / "out") == digests(tmp_path / "calm")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_exact_duplicates_are_counted_and_dropped_by_option(photos: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(photos, tmp_path / "in"))
    shutil.copy(source / "coffee.png", source / "a copy.png")
    summary = packed(source, tmp_path / "kept")
    assert (summary["num_packed"], summary["num_duplicates"]) == (10, 1)
    summary = packed(source, tmp_path / "out", drop_duplicates=True)
    assert (summary["num_packed"], summary["dropped"]) == (9, {"duplicate": 1})


def test_a_split_makes_two_sets_and_keeps_copies_together(photos: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(photos, tmp_path / "in"))
    for i in range(3):
        shutil.copytree(photos, source / f"copy{i}")
    summary = packed(source, tmp_path / "out", split=0.6)
    train, test = ShardSet.open(tmp_path / "out" / "train"), ShardSet.open(tmp_path / "out" / "test")
    assert train.num_samples + test.num_samples == summary["num_packed"] == 36
    assert summary["sets"] == {str(train.root): train.num_samples, str(test.root): test.num_samples}

    def photographs(data: ShardSet) -> set[str]:
        return {Path(data.sample(i).path).name for i in range(data.num_samples)}

    assert photographs(train).isdisjoint(photographs(test))
    assert not (tmp_path / "out" / WORK).exists()
    with pytest.raises(ValueError, match=r"no photograph of .* falls to test"):
        packed(photos, tmp_path / "uneven", split=0.999)
    assert not (tmp_path / "uneven").exists()


def test_a_pack_that_is_killed_at_its_very_end_keeps_its_set(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(folder: Path, **options: object) -> None:
        # As if the machine had stopped half way through the removal of the working folder.
        for path in folder.rglob("photos-*.json"):
            path.unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(output_dir, "shutil", SimpleNamespace(rmtree=stopped))
        with pytest.raises(KeyboardInterrupt):
            packed(photos, tmp_path / "out")
    before = {name: digest for name, digest in digests(tmp_path / "out").items() if name.startswith("photos")}
    assert len(before) == 6
    with pytest.raises(
        ValueError, match=r"is not empty .* and holds no unfinished pack, perhaps a finished one: name a new folder"
    ):
        packed(photos, tmp_path / "out")
    assert {name: digest for name, digest in digests(tmp_path / "out").items() if name.startswith("photos")} == before
    assert not list((tmp_path / "out").glob(f"{WORK}*"))


def test_refused_photographs_are_the_same_after_an_interruption(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # DALI refuses the first two photographs, which are all of the first shard, and a later one has a copy.
    source = Path(shutil.copytree(photos, tmp_path / "in"))
    order = sorted(
        (path.relative_to(source).as_posix() for path in source.rglob("*.*")), key=lambda path: sort_key(path, 0)
    )
    shutil.copy(source / order[0], source / "copy.png")

    def refuse(check: DaliCheck, samples: Samples) -> dict[int, str]:
        names = [line.split(" ")[3] for line in samples.lines]
        return {i: "no" for i, name in enumerate(names) if name.removesuffix(".jpg") in map(key_of, order[:2])}

    monkeypatch.setattr(DaliCheck, "refused", refuse)
    settings = {"shard_samples": 2, "drop_duplicates": True}
    calm = packed(source, tmp_path / "calm", **settings)
    assert calm["rejected"] == {"refused by DALI": 2}
    assert calm["dropped"] == {"duplicate": 1}
    finish_shard = ShardWriter._finish_shard
    for after in (1, 2):
        with monkeypatch.context() as patch:

            def stop(writer: ShardWriter, tar: TarShard, after: int = after) -> None:
                if len(writer.shards) == after:
                    writer._publish_pending()
                    raise KeyboardInterrupt
                finish_shard(writer, tar)

            patch.setattr(ShardWriter, "_finish_shard", stop)
            with pytest.raises(KeyboardInterrupt):
                packed(source, tmp_path / str(after), **settings)
        again = packed(source, tmp_path / str(after), **settings)
        assert again["num_resumed"] > 0
        assert digests(tmp_path / str(after)) == digests(tmp_path / "calm")


def test_an_interruption_before_the_first_shard_leaves_nothing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(writer: ShardWriter, outcome: ProcessedFile) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ShardWriter, "add", interrupt)
    with pytest.raises(KeyboardInterrupt) as caught:
        packed(photos, tmp_path / "out")
    assert caught.value.args == ("nothing was finished yet, so nothing is kept",)
    assert not (tmp_path / "out").exists()


def test_shards_are_cut_at_a_size_too(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_writer, "MAX_SHARD_BYTES", 10_000)
    packed(photos, tmp_path / "out", shard_samples=100)
    shards = ShardSet.open(tmp_path / "out").shards
    assert len(shards) > 2
    assert sum(shard.samples for shard in shards) == 9


def test_a_picture_that_is_too_long_is_rejected(photos: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(photos, tmp_path / "in"))
    Image.new("RGB", (66000, 40), "red").save(source / "long.png")
    summary = packed(source, tmp_path / "out", short_side="none")
    assert summary["rejected"] == {"too many pixels": 1}


def test_large_files_are_not_read(photos: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(photos, tmp_path / "in"))
    with open(source / "huge.jpg", "wb") as file:
        file.truncate(1 << 30)  # of zeros, which take no space
    assert packed(source, tmp_path / "out")["rejected"] == {"too large": 1}


def test_a_file_that_changes_during_an_interruption_is_another_source(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(shutil.copytree(photos, tmp_path / "in"))
    interrupt_after_a_shard(source, tmp_path / "out", monkeypatch)
    shutil.copy(source / "coffee.png", source / "rocket.jpg")
    with pytest.raises(ValueError, match=r"other settings or files .files: 9 files .* -> 9 files"):
        packed(source, tmp_path / "out")


def test_a_partition_needs_partitions(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--partition 3 is one of --partitions Partitions.zip: give both"):
        PackConfig(source="x", out=tmp_path, partition=3)


def test_what_is_no_shard_set_yet_is_named(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_after_a_shard(photos, tmp_path / "out", monkeypatch)
    with pytest.raises(ValueError, match=r"out holds an unfinished pack: run its command again"):
        ShardSet.open(tmp_path / "out")
    packed(photos, tmp_path / "two", split=0.5)
    with pytest.raises(ValueError, match=r"two holds two shard sets: name .*train or .*test"):
        ShardSet.open(tmp_path / "two")
