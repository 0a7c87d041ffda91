"""WebDataset shards from elsewhere, with all that such shards are known for."""

import csv
import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from photochrom.pipelines import DaliLoader, PackConfig, ShardSet, pack
from photochrom.pipelines.packing.index import IndexConfig, index
from photochrom.pipelines.packing.verify import VerifyConfig, verify
from PIL import Image


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_shard(path: Path, members: list[tuple[str, bytes]], *, cut: int = 0) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    if cut:
        with tarfile.open(path) as archive:
            last = archive.getmembers()[-1]
        data = path.read_bytes()
        path.write_bytes(data[: last.offset_data + last.size - cut])


@pytest.fixture
def foreign(photos: Path, tmp_path: Path) -> Path:
    coffee = Image.open(photos / "coffee.png").convert("RGB")
    chelsea = Image.open(photos / "chelsea.png").convert("RGB")
    jpeg, other = encoded(coffee, "JPEG"), encoded(chelsea, "JPEG")
    exif = Image.Exif()
    exif[0x0112] = 6
    root = tmp_path / "foreign"
    root.mkdir()
    write_shard(
        root / "set-000.tar",
        [
            ("plain.jpg", jpeg),
            ("plain.cls", b"7\n"),
            ("plain.json", b'{"caption": "of another project"}'),
            ("v1.2.image.jpg", other),
            ("dir/upper.JPG", jpeg),
            ("dir/other.jpeg", jpeg),
            ("lossless.png", encoded(chelsea, "PNG")),
            ("with space, n\u00e4me.jpg", jpeg),
            ("nolabel.jpg", other),
            ("onlylabel.cls", b"3"),
            ("text.txt", b"about"),
            ("long/" * 60 + "x.jpg", jpeg),
        ],
    )
    write_shard(
        root / "set-001.tar",
        [
            ("again.jpg", jpeg),
            ("again.jpg", other),
            ("empty.jpg", b""),
            ("cut.jpg", jpeg[:-200]),
            ("page.jpg", b"<html>"),
            ("clear.png", encoded(coffee.convert("RGBA"), "PNG")),
            ("turned.jpg", encoded(coffee, "JPEG", exif=exif)),
            ("inks.jpg", encoded(coffee.convert("CMYK"), "JPEG")),
            ("picture.gif", encoded(coffee, "GIF")),
            ("grey.jpg", encoded(coffee.convert("L"), "JPEG")),
            ("last.jpg", other),
            ("tail.jpg", jpeg),
        ],
        cut=1000,
    )
    (root / "set-002.tar").write_bytes(b"no tar at all")
    write_shard(root / "set-003.tar", [("a.txt", b"no photograph")])
    return root


def indexed(root: Path, **settings: object) -> dict:
    return index(IndexConfig(root=root, workers=1, **settings))


def digests(root: Path, pattern: str) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in root.glob(pattern)}


def test_what_is_sound_is_taken_and_the_rest_listed(foreign: Path, photos: Path) -> None:
    before = digests(foreign, "*.tar")
    summary = indexed(foreign)
    assert digests(foreign, "*.tar") == before
    shards = ShardSet.open(foreign)
    samples = [shards.sample(i) for i in range(shards.num_samples)]
    assert {sample.path: sample.class_name for sample in samples} == {
        "set-000/plain.jpg": "7",
        "set-000/v1.2.image.jpg": "",
        "set-000/dir/upper.JPG": "dir",
        "set-000/dir/other.jpeg": "dir",
        "set-000/lossless.png": "",
        "set-000/with space, n\u00e4me.jpg": "",
        "set-000/nolabel.jpg": "",
        "set-000/" + "long/" * 60 + "x.jpg": "/".join(["long"] * 60),
        "set-001/again.jpg": "",
        "set-001/last.jpg": "",
    }
    with open(foreign / "rejects.csv", newline="") as file:
        rejects = {path: reason for path, reason, _ in list(csv.reader(file))[1:]}
    assert rejects == {
        "set-000/onlylabel.cls": "not an image",
        "set-000/text.txt": "not an image",
        "set-001.tar": "cut shard",
        "set-001/again.jpg#2": "duplicate name",
        "set-001/empty.jpg": "empty file",
        "set-001/cut.jpg": "damaged JPEG",
        "set-001/page.jpg": "not an image",
        "set-001/clear.png": "needs packing",
        "set-001/turned.jpg": "needs packing",
        "set-001/inks.jpg": "needs packing",
        "set-001/picture.gif": "needs packing",
        "set-001/tail.jpg": "unreadable",
        "set-002.tar": "no tar",
        "set-003/a.txt": "not an image",
    }
    assert summary["dropped"] == {"grey": 1}
    assert (summary["num_indexed"], summary["num_shards"]) == (10, 2)
    fates = ("indexed", "dropped", "rejected", "not_taken")
    assert summary["num_files"] == 25 + 2 == sum(summary[f"num_{fate}"] for fate in fates), "25 members and 2 bad tars"
    for sample in samples:
        with Image.open(io.BytesIO(sample.read())) as picture:
            assert picture.size == sample.size


def test_an_adopted_set_trains_as_any_other(foreign: Path, photos: Path) -> None:
    indexed(foreign)
    data = ShardSet.open(foreign)
    batches = list(DaliLoader(data, batch_size=4, size=64, train=False))
    assert sorted(i for batch in batches for i in batch.index.tolist()) == list(range(10))
    position = next(i for i in range(10) if data.sample(i).path.endswith("lossless.png"))
    (batch,) = DaliLoader(data, batch_size=1, size=64, train=False, crop="center", samples=[position])
    assert batch.ab.abs().max() > 10
    assert verify(VerifyConfig(root=foreign, decode=True, workers=1)) == []


def test_an_index_of_another_tool_is_kept(foreign: Path) -> None:
    (foreign / "set-000.idx").write_text("v1.2 1\njpg 512 10 plain.jpg\n")
    indexed(foreign)
    assert (foreign / "set-000.idx.before").read_text() == "v1.2 1\njpg 512 10 plain.jpg\n"


def test_shards_of_ours_are_known_again(photos: Path, tmp_path: Path) -> None:
    pack(PackConfig(source=photos, out=tmp_path / "out", short_side=96, workers=1))
    packed_set = ShardSet.open(tmp_path / "out")
    (tmp_path / "tars").mkdir()
    shutil.copy(tmp_path / "out" / "photos-000000.tar", tmp_path / "tars")
    indexed(tmp_path / "tars")
    again = ShardSet.open(tmp_path / "tars")
    assert [again.sample(i) for i in range(9)] == [
        type(again.sample(i))(**{**vars(packed_set.sample(i)), "tar": tmp_path / "tars" / "photos-000000.tar"})
        for i in range(9)
    ]
    # The colours are those of the stored JPEGs now, which differ a little from those of the photographs.
    assert np.abs(again.prior - packed_set.prior).sum() / 2 < 0.05


def test_a_webdataset_can_be_packed_again(foreign: Path, photos: Path, tmp_path: Path) -> None:
    pack(PackConfig(source=photos, out=tmp_path / "large", short_side=96, workers=1))
    pack(
        PackConfig(source=tmp_path / "large", out=tmp_path / "small", short_side=48, workers=1),
    )
    large, small = ShardSet.open(tmp_path / "large"), ShardSet.open(tmp_path / "small")
    assert [small.sample(i).path for i in range(9)] == [large.sample(i).path for i in range(9)]
    assert small.manifest["classes"] == large.manifest["classes"] == {"": 7, "garage": 2}
    assert small.sizes.min(axis=1).tolist() == [48] * 9
    # Of one tar, and with labels from elsewhere; what needs packing is packed.
    pack(PackConfig(source=foreign / "set-000.tar", out=tmp_path / "one", workers=1))
    assert ShardSet.open(tmp_path / "one").manifest["classes"]["7"] == 1


@pytest.mark.parametrize("make", ["nothing", "no tars", "a shard set", "nothing sound"])
def test_folders_that_cannot_be_indexed(shards: ShardSet, tmp_path: Path, make: str) -> None:
    root = tmp_path / "root"
    sentence = {
        "nothing": "there is no folder",
        "no tars": "holds no shards, which end in .tar",
        "a shard set": "is a shard set already",
        "nothing sound": "hold no photograph that can be indexed: 1 not an image",
    }[make]
    if make == "a shard set":
        root = shards.root
    elif make != "nothing":
        root.mkdir()
    if make == "nothing sound":
        write_shard(root / "a.tar", [("a.jpg", b"no")])
    with pytest.raises(ValueError, match=sentence):
        indexed(root)


def test_every_change_is_named(shards: ShardSet, tmp_path: Path) -> None:
    def problems(change: object) -> list[str]:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(shards.root, root)
        change(root)
        return [problem.replace(f"{root}/", "") for problem in verify(VerifyConfig(root=root))]

    def swap(root: Path) -> None:
        # An index of the same size whose lines are in another order: readers would take random bytes, silently.
        index = root / "photos-000000.idx"
        head, *lines = index.read_text().splitlines()
        index.write_text("\n".join([head, *lines[::-1]]) + "\n")

    def replaced(root: Path) -> None:
        tar = root / "photos-000001.tar"
        data = bytearray(tar.read_bytes())
        data[2000] ^= 1
        tar.write_bytes(data)

    def shorter(root: Path) -> None:
        tar = root / "photos-000001.tar"
        tar.write_bytes(tar.read_bytes()[:-512])

    def manifest(root: Path) -> None:
        facts = json.loads((root / "manifest.json").read_text())
        facts["ab_histogram"][0] = 0.5
        (root / "manifest.json").write_text(json.dumps(facts))

    assert problems(lambda root: None) == []
    assert problems(swap) == ["photos-000000.idx has other content than when the manifest was written"]
    assert problems(replaced) == ["photos-000001.tar has other content than when the manifest was written"]
    (short,) = problems(shorter)
    assert "photos-000001.tar has" in short
    assert "where the manifest says" in short
    assert problems(lambda root: (root / "photos-000002.tar").unlink()) == ["photos-000002.tar is missing"]
    assert problems(manifest) == ["manifest.json has been changed since it was written: its own hash differs"]


def test_every_photograph_that_does_not_decode_is_named(shards: ShardSet, tmp_path: Path) -> None:
    # As if it had been packed so: the manifest's hashes are those of the damaged shard.
    root = Path(shutil.copytree(shards.root, tmp_path / "root"))
    sample = shards.sample(1)
    tar = root / sample.tar.name
    data = bytearray(tar.read_bytes())
    start = sample.offset + sample.num_bytes // 2
    data[start : start + 400] = bytes(400)
    tar.write_bytes(data)
    facts = json.loads((root / "manifest.json").read_text())
    facts["shards"][0]["sha256"] = hashlib.sha256(data).hexdigest()
    (root / "manifest.json").write_text(json.dumps(facts))
    problems = verify(VerifyConfig(root=root, decode=True, workers=1))
    assert len(problems) == 2
    assert problems[0].endswith("its own hash differs")
    assert f"{sample.key}.jpg does not decode: damaged JPEG" in problems[1]


def test_parts_belong_to_the_photograph_that_shares_their_name(photos: Path, tmp_path: Path) -> None:
    coffee = Image.open(photos / "coffee.png").convert("RGB")
    one, two = encoded(coffee, "JPEG", quality=90), encoded(coffee, "JPEG", quality=80)
    write_shard(
        tmp_path / "a.tar",
        [
            ("v1.2.image.jpg", one),
            ("v1.2.image.cls", b"A"),
            ("v1.3.image.jpg", two),
            ("v1.3.image.cls", b"B"),
            ("k.jpg", one),
            ("k.cls", b"C"),
            ("k.jpg", two),
            ("k.cls", b"D"),
            ("s.input.jpg", one),
            ("s.cls", b"E"),
            ("a.jpg", one),
            ("a.json", b'{"path": "images", "class": "x"}'),
            ("b.jpg", two),
            ("b.json", b'{"path": "images", "class": "x"}'),
            ("deep.jpg", two),
            ("deep.json", b"[" * 100_000),
        ],
    )
    indexed(tmp_path)
    shards = ShardSet.open(tmp_path)
    assert {s.path: s.class_name for s in map(shards.sample, range(shards.num_samples))} == {
        "a/v1.2.image.jpg": "A",
        "a/v1.3.image.jpg": "B",
        "a/k.jpg": "C",
        "a/s.input.jpg": "E",
        "a/a.jpg": "",
        "a/b.jpg": "",
        "a/deep.jpg": "",
    }
    assert shards.manifest["classes"] == {"": 3, "A": 1, "B": 1, "C": 1, "E": 1}


def test_a_shard_that_is_cut_in_a_header_is_listed(photos: Path, tmp_path: Path) -> None:
    coffee = encoded(Image.open(photos / "coffee.png").convert("RGB"), "JPEG")
    write_shard(tmp_path / "a.tar", [(f"{i}.jpg", coffee) for i in range(6)])
    with tarfile.open(tmp_path / "a.tar") as archive:
        place = archive.getmembers()[3].offset + 100
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(data[:place])
    summary = indexed(tmp_path)
    assert (summary["num_indexed"], summary["rejected"]) == (3, {"cut shard": 1})


@pytest.mark.parametrize("name", ["rejects.csv", "config.yaml", "summary.json"])
def test_files_of_others_are_not_overwritten(foreign: Path, name: str) -> None:
    (foreign / name).write_text("mine")
    with pytest.raises(ValueError, match=f"holds a {name} that was not made by photochrom index: move it away first"):
        indexed(foreign)
    assert (foreign / name).read_text() == "mine"


def test_an_index_that_comes_to_nothing_leaves_nothing(foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (foreign / "set-000.idx").write_text("of another tool")

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("photochrom.pipelines.packing.index.write_rejects", stop)
    before = sorted(path.name for path in foreign.iterdir())
    with pytest.raises(KeyboardInterrupt):
        indexed(foreign)
    assert sorted(path.name for path in foreign.iterdir()) == before
    assert (foreign / "set-000.idx").read_text() == "of another tool"


def test_a_set_is_packed_again_with_the_picture_beside_it(shards: ShardSet, tmp_path: Path) -> None:
    root = Path(shutil.copytree(shards.root, tmp_path / "root"))
    Image.new("RGB", (64, 64), "red").save(root / "picture.png")
    summary = pack(PackConfig(source=root, out=tmp_path / "out", short_side=48, workers=1))
    num_indices = len(list(root.glob("*.idx")))
    assert (summary["num_packed"], summary["num_files"]) == (10, 10 + summary["num_not_taken"])
    assert summary["not_taken"] == {"sidecar": 9, "file of a shard set": num_indices + 2}


@pytest.mark.parametrize("lack", ["ab_histogram", "sizes"])
def test_a_manifest_that_lacks_something_is_named(shards: ShardSet, tmp_path: Path, lack: str) -> None:
    root = Path(shutil.copytree(shards.root, tmp_path / "root"))
    facts = json.loads((root / "manifest.json").read_text())
    if lack == "sizes":
        facts["shards"][0]["sizes"] = "96x96"
    else:
        del facts[lack]
    (root / "manifest.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"manifest.json is damaged"):
        verify(VerifyConfig(root=root))


def test_an_index_that_is_interrupted_leaves_none_of_its_files(foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def on_summary(summary: dict) -> None:
        (foreign / "summary.json").write_text("{}")
        (foreign / "config.yaml").write_text("{}")
        raise KeyboardInterrupt

    before = sorted(path.name for path in foreign.iterdir())
    with pytest.raises(KeyboardInterrupt):
        index(IndexConfig(root=foreign, workers=1), on_summary=on_summary)
    assert sorted(path.name for path in foreign.iterdir()) == before
    assert indexed(foreign)["num_indexed"] == 10


def test_an_empty_shard_is_listed(photos: Path, tmp_path: Path) -> None:
    coffee = encoded(Image.open(photos / "coffee.png").convert("RGB"), "JPEG")
    write_shard(tmp_path / "a.tar", [("a.jpg", coffee)])
    write_shard(tmp_path / "b.tar", [])
    assert indexed(tmp_path)["rejected"] == {"empty shard": 1}
