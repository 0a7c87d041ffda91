"""Sources that hold archives, links, holes, sidecars and tails: every file is read, or named with a reason."""

import bz2
import gzip
import io
import lzma
import random
import tarfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from photochrom.pipelines import PackConfig, ShardSet, pack
from photochrom.pipelines.imaging.decode import Rejected
from photochrom.pipelines.packing.archives import list_archive
from photochrom.pipelines.packing.index import IndexConfig, index
from photochrom.pipelines.packing.members import LocalFile, NotTaken, SourceFile, UniquePaths, open_zip
from photochrom.pipelines.packing.sources import list_files
from photochrom.pipelines.packing.streams import open_stream
from PIL import Image

Tree = dict[str, "bytes | Tree"]  # NAME.tar and NAME.zip are archives, other trees are folders


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    color = (40 + number * 23 % 200, 60, 200 - number * 31 % 150)
    Image.fromarray(np.full((48, 64, 3), color, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def leaves(tree: Tree, folder: str = "") -> dict[str, bytes]:
    """Returns the files of a tree, the contents of its archives by their own names, in folders."""
    files: dict[str, bytes] = {}
    for name, content in tree.items():
        if isinstance(content, bytes):
            files[folder + name] = content
        else:
            files |= leaves(content, f"{folder}{name}/")
    return files


def write_folder(tree: Tree, path: Path) -> Path:
    path.mkdir(parents=True)
    for name, data in packed_leaves(tree).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def packed_leaves(tree: Tree) -> dict[str, bytes]:
    """Returns the files of a tree, with each archive as one of them."""
    files: dict[str, bytes] = {}
    for name, content in tree.items():
        if isinstance(content, bytes):
            files[name] = content
        elif name.endswith(".tar"):
            files[name] = tar_of(packed_leaves(content))
        elif name.endswith(".zip"):
            files[name] = zip_of(packed_leaves(content))
        else:
            files |= {f"{name}/{inner}": data for inner, data in packed_leaves(content).items()}
    return files


def tar_of(files: dict[str, bytes], links: dict[str, str] | None = None, kind: bytes = tarfile.LNKTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
    return buffer.getvalue()


def zip_of(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def files_of(source: Path, folder: Path) -> tuple[list[SourceFile], dict[str, int]]:
    """Returns the files of a source, listed or from its stream, and the bytes that were not read."""
    unread: dict[str, int] = {}
    files = list_files(str(source), unread)
    if files is None:
        folder.mkdir(exist_ok=True)
        stream = open_stream(str(source))
        files, unread = list(stream.files(lambda path: True, folder)), stream.unread
        stream.close()
    assert len({file.path for file in files}) == len(files)
    return files, unread


def contents(files: list[SourceFile]) -> dict[str, bytes | str]:
    """Returns the bytes of each file by its path, or why it has none."""

    def read(file: SourceFile) -> bytes | str:
        try:
            return file.content.read()
        except Rejected as rejected:
            return rejected.reason

    return {file.path: read(file) for file in files}


def classes(files: list[SourceFile]) -> dict[str, str]:
    return {file.path: file.class_name for file in files}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, bytes], Path]:
    def write(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write


def junk(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randint(0, 2000))


def photograph_or_junk(rng: random.Random) -> bytes:
    return jpeg(rng.randrange(1000)) if rng.random() < 0.7 else junk(rng)


NAMES = ["a.jpg", "b.JPEG", "c.jfif", "d", "e.jpe", "f.tga", "a.txt", "b.json", "a.jpg.xmp", ".DS_Store", "ü.png", "-"]


def random_tree(rng: random.Random, make: Callable[[random.Random], bytes] = junk, depth: int = 0) -> Tree:
    """Returns a tree whose files all have contents of their own; archives in zips are another test's."""
    tree: Tree = {}
    for name in rng.sample(NAMES, rng.randint(1, 6)):
        tree[name] = make(rng)
    for letters, kind in (("st", ""), ("uv", ".tar"), ("wx", ".zip")):  # names that archives share are another test's
        if depth < 3 and rng.random() < 0.5:
            inner = random_tree(rng, make, depth + 1 if kind != ".zip" else 9)
            tree[f"{rng.choice(letters)}{kind}"] = inner
    return tree


@pytest.mark.parametrize("seed", range(12))
def test_the_account_of_any_source_adds_up(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    tree = random_tree(rng)
    expected = Counter(leaves(tree).values())
    packed = packed_leaves(tree)
    plain = tar_of(packed)
    sources = [write_folder(tree, tmp_path / "folder")]
    for name, data in {
        "a.tar": plain,
        "a.zip": zip_of(packed),
        "a.tgz": gzip.compress(plain),
        "b.tar": tar_of(packed) + tar_of({}) + b"behind",
    }.items():
        (tmp_path / name).write_bytes(data)
        sources.append(tmp_path / name)
    for number, source in enumerate(sources):
        files, unread = files_of(source, tmp_path / str(number))
        found = contents(files)
        lost = expected - Counter(data for data in found.values() if isinstance(data, bytes))
        sidecars = [file for file in files if isinstance(file.content, NotTaken)]
        assert len(files) == expected.total(), source.name
        assert lost.total() == len(sidecars), source.name
        assert unread == ({"b.tar": 6} if source.name == "b.tar" else {})
        names = {Path(file.path).name.partition(".")[2] for file in sidecars}
        assert names <= {"txt", "json", "jpg.xmp"}, "only these share a name with a photograph"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_any_kind_of_source_becomes_the_same_shards(seed: int, tmp_path: Path) -> None:
    tree = random_tree(random.Random(seed), photograph_or_junk)
    packed = packed_leaves(tree)
    write_folder(tree, tmp_path / "folder")
    (tmp_path / "tar").write_bytes(tar_of(packed))
    (tmp_path / "tgz").write_bytes(gzip.compress(tar_of(packed)))
    (tmp_path / "zip").write_bytes(zip_of(packed))
    shards = set()
    for kind in ("folder", "tar", "tgz", "zip"):
        out = tmp_path / f"{kind}.out"
        settings = {"short_side": 48, "workers": 1, "keep_grey": True}
        summary = pack(PackConfig(source=tmp_path / kind, out=out, **settings))
        fates = [summary[f"num_{fate}"] for fate in ("packed", "dropped", "rejected", "not_taken")]
        assert summary["num_files"] == sum(fates) == len(leaves(tree))
        shards.add(b"".join(path.read_bytes() for path in sorted(out.glob("photos-*"))))
    assert len(shards) == 1


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Returns an archive with flipped bits, lost and zeroed blocks, and strange fields in sound headers."""
    bad = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(bad))
        block = place // 512 * 512
        fate = rng.randrange(4)
        if fate == 0:
            bad[place] ^= 1 << rng.randrange(8)
        elif fate == 1:
            bad[place : place + rng.randint(1, 600)] = rng.randbytes(rng.randint(0, 600))
        elif fate == 2:
            bad[block : block + 512] = bytes(512)
        elif len(bad) >= block + 512:
            start, size = rng.choice([(0, 100), (124, 12), (156, 1), (157, 100), (345, 155), (386, 96), (483, 12)])
            bad[block + start : block + start + size] = rng.choices([0, 48, 55, 120, 128, 255], k=size)
            header = bad[block : block + 512]
            bad[block + 148 : block + 156] = b"%06o\0 " % (256 + sum(header[:148]) + sum(header[156:]))
    return bytes(bad)


@pytest.mark.parametrize("kind", ["a.tar", "a.zip", "a.tgz", "folder"])
def test_damaged_archives_are_a_sentence_or_named(kind: str, tmp_path: Path) -> None:
    sentences = set()
    for seed in range(40):
        rng = random.Random(seed)
        packed = packed_leaves(random_tree(rng))
        data = damaged(zip_of(packed) if kind == "a.zip" else tar_of(packed, {"link.jpg": next(iter(packed))}), rng)
        source = tmp_path / str(seed)
        if kind == "folder":
            source.mkdir()
        (source / "a.tar" if kind == "folder" else source).write_bytes(gzip.compress(data) if kind == "a.tgz" else data)
        try:
            contents(files_of(source, tmp_path / "incoming")[0])
        except ValueError as error:
            sentences.add(str(error).replace(str(source), "SOURCE"))
    known = ("the archive SOURCE is incomplete or damaged", "SOURCE is neither", "SOURCE holds no files")
    assert [sentence for sentence in sentences if not sentence.startswith(known)] == []


def test_a_folder_and_a_tar_of_the_same_files_are_the_same_set(tmp_path: Path) -> None:
    tree: Tree = {"A.jpg": b"a", "A.jpg.json": b"{}", "B.jfif": jpeg(1), "noname": jpeg(2), "scan.TGA": b"t"}
    folder, _ = files_of(write_folder({"Album": tree}, tmp_path / "f"), tmp_path / "x")
    (tmp_path / "f.tar").write_bytes(tar_of(packed_leaves({"Album": tree})))
    tar, _ = files_of(tmp_path / "f.tar", tmp_path / "x")
    assert contents(tar) == contents(folder) | {"Album/A.jpg.json": "sidecar"}
    assert classes(tar) == classes(folder)


IMAGENET: Tree = {
    "n01.tar": {"p0.jpg": jpeg(0), "p1": jpeg(1)},
    "n02.zip": {"p2.jpg": jpeg(2)},
    "more": {"n03.tar": {"p3.jpg": jpeg(3), "sub": {"p4.jpg": jpeg(4)}}},
}
IMAGENET_CLASSES = {
    "n01/p0.jpg": "n01",
    "n01/p1": "n01",
    "n02/p2.jpg": "n02",
    "more/n03/p3.jpg": "more/n03",
    "more/n03/sub/p4.jpg": "sub",
}


@pytest.mark.parametrize("kind", ["folder", "tar", "zip", "tgz", "joined zips"])
def test_an_archive_for_each_class_gives_its_name(
    kind: str, tmp_path: Path, write: Callable[[str, bytes], Path]
) -> None:
    packed = packed_leaves(IMAGENET)
    source = {
        "folder": lambda: write_folder(IMAGENET, tmp_path / "train"),
        "tar": lambda: write("train.tar", tar_of(packed)),
        "zip": lambda: write("train.zip", zip_of(packed)),
        "tgz": lambda: write("train", gzip.compress(tar_of(packed))),
        "joined zips": lambda: write("train.zip", zip_of({"n02.zip": packed["n02.zip"]}) + zip_of(packed)),
    }[kind]()
    files, unread = files_of(source, tmp_path / "incoming")
    assert classes(files) == IMAGENET_CLASSES
    assert (set(unread) == {"train.zip"}) == (kind == "joined zips")


def test_joined_zips_are_all_read(tmp_path: Path, write: Callable[[str, bytes], Path]) -> None:
    joined = zip_of({"a": b"1"}) + zip_of({"b": b"2"}) + zip_of({"c": b"3"})
    assert files_of(write("a.zip", joined), tmp_path)[1] == {}
    assert contents(files_of(write("a.zip", joined), tmp_path)[0]) == {"a": b"1", "b": b"2", "c": b"3"}
    assert files_of(write("b.zip", b"MZ program" + zip_of({"a": b"1"})), tmp_path)[1] == {"b.zip": 10}


def test_labelled_shards_are_no_classes(tmp_path: Path) -> None:
    shard: Tree = {"1.jpg": jpeg(1), "1.cls": b"7", "2.jpg": jpeg(2), "2.json": b"{}", "2.txt": b"BMW"}
    files, _ = files_of(write_folder({"00000.tar": shard}, tmp_path / "f"), tmp_path)
    assert {path: name for path, name in classes(files).items() if path.endswith("jpg")} == {
        "00000/1.jpg": "7",
        "00000/2.jpg": "",
    }
    assert Counter(contents(files).values())["sidecar"] == 3


def test_archives_that_must_be_unpacked_are_named(tmp_path: Path) -> None:
    deep: Tree = {"x.jpg": jpeg(1)}
    for _ in range(6):
        deep = {"in.tar": deep}
    inner = zip_of({"x.jpg": jpeg(0)})
    tree: Tree = {
        "a.tgz": gzip.compress(tar_of({"x.jpg": jpeg(0)})),
        "b.zip": {"c.zip": inner},
        "cut.tar": tar_of({"x.jpg": b"x" * 512, "y.jpg": b"y" * 512})[:1700],
        "cut.zip": inner[:-20],
        "empty": bytes(10240),
        "late.tar": bytes(512) + tar_of({"z": b"z"}),
        "deep.tar": deep,
    }
    files, _ = files_of(write_folder(tree, tmp_path / "f"), tmp_path)
    assert contents(files) == {
        "a.tgz": "archive",
        "b/c.zip": "archive",
        "cut/x.jpg": b"x" * 512,
        "cut/y.jpg": "unreadable",
        "cut.tar": "damaged archive",
        "cut.zip": "damaged archive",
        "empty": "empty archive",
        "late/z": b"z",
        "deep/in/in/in/in.tar": "archive",
    }


def test_names_that_two_archives_share_are_told_apart(tmp_path: Path) -> None:
    tree: Tree = {"a": {"1.jpg": b"1"}, "a.tar": {"1.jpg": b"2"}, "a.zip": {"1.jpg": b"3"}}
    files, _ = files_of(write_folder(tree, tmp_path / "f"), tmp_path)
    assert sorted(contents(files).values()) == [b"1", b"2", b"3"]


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_hard_links_are_what_they_name(name: str, tmp_path: Path, write: Callable[[str, bytes], Path]) -> None:
    links = {
        "./b/same.jpg": "a/x.jpg",
        "b/third.jpg": "a/x.jpg",
        "c/again": "b/same.jpg",
        "d.tar": "./in.tar",
        "lost.jpg": "a/none.jpg",
    }
    tar = tar_of({"a/x.jpg": b"x", "in.tar": tar_of({"y": b"y"})}, links)
    files, _ = files_of(write(name, gzip.compress(tar) if name.endswith("gz") else tar), tmp_path / "incoming")
    assert contents(files) == {
        "a/x.jpg": b"x",
        "in/y": b"y",
        "b/same.jpg": b"x",
        "b/third.jpg": b"x",
        "c/again": b"x",
        "d/y": b"y",
        "lost.jpg": "no regular file",
    }


SPARSE = b"head".ljust(4096, b"\1") + bytes(60_000) + b"tail".ljust(4096, b"\2") + bytes(20_000)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "outer.tar"])
def test_holes_are_zeros(name: str, tmp_path: Path, write: Callable[[str, bytes], Path]) -> None:
    header = tarfile.TarInfo("a.bmp")
    header.size, header.type = 8192, tarfile.GNUTYPE_SPARSE
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    spans = ((0, 4096), (64_096, 4096), (len(SPARSE), 0))
    block[386:482] = b"".join(b"%011o\0" % number for span in spans for number in span).ljust(96, b"\0")
    block[483:495] = b"%011o\0" % len(SPARSE)
    block[148:156] = b"%06o\0 " % (256 + sum(block[:148]) + sum(block[156:]))
    tar = bytes(block) + SPARSE[:4096] + SPARSE[64_096:68_192] + bytes(1024)
    data = {"a.tar": tar, "a.tar.gz": gzip.compress(tar), "outer.tar": tar_of({"in.tar": tar})}[name]
    files, _ = files_of(write(name, data), tmp_path / "incoming")
    assert list(contents(files).values()) == [SPARSE]
    damaged = bytearray(tar)
    damaged[386:397] = b"%011o" % 99_999
    damaged[148:156] = b"%06o\0 " % (256 + sum(damaged[:148]) + sum(damaged[156:512]))
    assert list(contents(files_of(write("b.tar", bytes(damaged)), tmp_path)[0]).values()) == ["unreadable"]


@pytest.mark.parametrize("squeeze", [bytes, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("tail", [b"", b"signature of a mirror", b"more than a block" * 99])
def test_joined_archives_are_one_and_tails_are_named(
    squeeze: Callable[[bytes], bytes], tail: bytes, tmp_path: Path, write: Callable[[str, bytes], Path]
) -> None:
    first, second, third = (tar_of({f"{number}.jpg": b"%d" % number}) for number in range(3))
    at = 1024  # behind the first member, where a lone block of zeros is
    joined = first[:at] + bytes(512) + second + third
    for data in (squeeze(joined) + tail, squeeze(first) + squeeze(second + third) + tail):
        files, unread = files_of(write("a", data), tmp_path / "incoming")
        assert contents(files) == {"0.jpg": b"0", "1.jpg": b"1", "2.jpg": b"2"}
        assert unread == ({"a": len(tail)} if tail else {})
    inside, unread = files_of(write("b", squeeze(joined + tail)), tmp_path / "incoming")
    assert (len(inside), unread) == (3, {"b": len(tail)} if tail else {})


def test_zips_are_read_from_their_first_byte_to_their_last(tmp_path: Path, write: Callable[[str, bytes], Path]) -> None:
    first, second = zip_of({"a.jpg": jpeg(1)}), zip_of({"b.jpg": jpeg(2)})
    for data, names, num_unread in (
        (first + zip_of({}), ["a.jpg"], 0),
        (first + b"tail", ["a.jpg"], 4),
        (b"program" + first + b"between" + second + b"tail", ["a.jpg", "b.jpg"], 18),
        (zip_of({}), [], 0),
    ):
        unread: dict[str, int] = {}
        files, problem = list_archive(LocalFile(write("a.zip", data)), b"PK", "a.zip", unread)
        open_zip.cache_clear()
        assert ([file.path for file in files], problem) == (names, "")
        assert unread == ({"a.zip": num_unread} if num_unread else {})
    files, _ = list_archive(LocalFile(write("many.zip", first * 1500)), b"PK", "many.zip", {})
    assert len(files) == 1500


def test_a_zip_that_was_replaced_is_read_anew(tmp_path: Path, write: Callable[[str, bytes], Path]) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "a.zip").unlink(missing_ok=True)
        assert list(contents(files_of(write("a.zip", zip_of({name: jpeg(1)})), tmp_path)[0])) == [name]


def pax_header(**facts: str) -> bytes:
    """Returns the headers of a file of 600 bytes; a . in a keyword is written __."""
    member = tarfile.TarInfo("x")
    member.size, member.pax_headers = 600, {name.replace("__", "."): value for name, value in facts.items()}
    return member.tobuf(tarfile.PAX_FORMAT)


@pytest.mark.parametrize(
    "header",
    [
        pax_header(GNU__sparse__map="a,b"),
        pax_header(GNU__sparse__size="abc", GNU__sparse__numblocks="1"),
        pax_header(GNU__sparse__major="1", GNU__sparse__minor="0", GNU__sparse__realsize="5"),
        pax_header(size="-5"),
        pax_header(comment="x")[:1024] * 3000 + pax_header(),
    ],
    ids=["map", "size", "blocks", "negative", "many headers"],
)
def test_headers_that_tarfile_does_not_check_are_damage(header: bytes, tmp_path: Path) -> None:
    data = tar_of({"a.jpg": jpeg(1)}) + header + b"abc\n" * 256 + bytes(1024)
    (tmp_path / "s").mkdir()
    (tmp_path / "s/a.tar").write_bytes(data)
    files, _ = files_of(tmp_path / "s", tmp_path)
    assert {file.path: getattr(file.content, "reason", "") for file in files} == {
        "a/a.jpg": "",
        "a.tar": "damaged archive",
    }
    with pytest.raises(ValueError, match="incomplete or damaged"):
        files_of(tmp_path / "s/a.tar", tmp_path)


def test_many_files_of_one_name_take_no_time(tmp_path: Path) -> None:
    paths, file = UniquePaths("a.tar"), LocalFile(tmp_path)
    started = time.process_time()
    names = {paths.add("x.jpg", file).path for _ in range(20_000)}
    assert len(names) == 20_000
    assert time.process_time() - started < 5  # it was a minute


def test_zips_that_windows_and_macos_wrote(tmp_path: Path) -> None:
    for name, system, flag, raw in (
        ("windows", 0, 0, "Fotos\\Grüße.jpg".encode("cp437")),
        ("macos", 3, 0, "Fotos/Grüße.jpg".encode()),
        ("flagged", 0, 0x800, "Fotos/Grüße.jpg".encode()),
    ):
        data = zip_of({"x" * len(raw): b"1", "Folder/": b""}).replace(b"x" * len(raw), raw)
        place = data.index(b"PK\x01\x02")
        patched = bytearray(data)
        patched[place + 5] = system
        for start in (place + 8, 6):
            patched[start : start + 2] = flag.to_bytes(2, "little")
        (tmp_path / name).write_bytes(patched)
        files, _ = files_of(tmp_path / name, tmp_path)
        assert classes(files) == {"Fotos/Grüße.jpg": "Fotos"}
        assert contents(files) == {"Fotos/Grüße.jpg": b"1"}


def test_a_set_of_all_of_it_closes_with_its_account(tmp_path: Path, write: Callable[[str, bytes], Path]) -> None:
    packed = packed_leaves(IMAGENET) | {"readme.txt": b"text", "shard.tar": tar_of({"1.jpg": jpeg(7), "1.cls": b"7"})}
    tar = tar_of(packed, {"linked/n04.tar": "n01.tar", "n01.jpg": "more/n03.tar"}) + tar_of({"late.jpg": jpeg(9)})
    source = write("train.tar.gz", gzip.compress(tar) + b"signature")
    summary = pack(PackConfig(source=source, out=tmp_path / "out", short_side=48, workers=1, keep_grey=True))
    counts = Counter(ShardSet.open(tmp_path / "out").manifest["classes"])
    assert counts == {"n01": 2, "n02": 1, "more/n03": 1, "sub": 1, "7": 1, "": 1, "linked/n04": 2}
    assert summary["unread"] == {"train.tar.gz": 9}
    assert summary["rejected"] == {"not an image": 2}
    assert summary["not_taken"] == {"sidecar": 1}
    assert (
        summary["num_files"]
        == 12
        == sum(summary[f"num_{fate}"] for fate in ("packed", "dropped", "rejected", "not_taken"))
    )


def test_an_index_has_an_account_and_classes_by_tars(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "n01.tar").write_bytes(
        tar_of({"0.jpg": jpeg(0), "1": jpeg(1)}, {"2.jpg": "0.jpg"}) + tar_of({"3.jpg": jpeg(3)})
    )
    (root / "n02.tar").write_bytes(tar_of({"4.jpg": jpeg(4)}) + b"tail")
    (root / "n03.tar.gz").write_bytes(b"")
    summary = index(IndexConfig(root=root, workers=1))
    shards = ShardSet.open(root)
    assert Counter(shards.sample(i).class_name for i in range(5)) == shards.manifest["classes"] == {"n01": 4, "n02": 1}
    assert (summary["unread"], summary["not_taken"]) == ({"n02.tar": 4}, {"no .tar": 1})
    assert (summary["num_files"], summary["num_indexed"]) == (6, 5)
