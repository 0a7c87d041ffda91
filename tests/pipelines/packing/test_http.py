"""Reading from a server that drops, stalls, lies, ignores ranges, answers with errors or with a web page."""

import base64
import io
import re
import shutil
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from photochrom.engine.cli import main
from photochrom.pipelines import PackConfig, ShardSet, pack
from photochrom.pipelines.packing.http import HttpFile

QUICK = {"pauses": (0.01, 0.01), "timeout": 0.3}


def read(server: Any, **settings: Any) -> bytes:
    with io.BufferedReader(HttpFile(server.url, **{**QUICK, **settings}), 10_000) as file:
        return file.read()


def test_a_sound_server_is_asked_once(server: Any) -> None:
    assert read(server) == server.data
    assert server.requests == [None]


@pytest.mark.parametrize("fault", ["drop", "stall", 500, 503, 429])
def test_passing_failures_are_got_over(server: Any, fault: Any) -> None:
    server.faults = [fault, fault]
    assert read(server) == server.data
    assert len(server.requests) == 3
    if isinstance(fault, str):
        assert server.requests[1] == "bytes=100000-"


def test_many_drops_are_got_over_as_long_as_each_brings_something(server: Any) -> None:
    server.faults = ["drop"] * 12
    assert read(server) == server.data


def test_a_server_that_ignores_ranges_sends_it_all_again(server: Any) -> None:
    server.ranges = False
    server.faults = ["drop"]
    assert read(server) == server.data
    assert server.requests == [None, "bytes=100000-"]


@pytest.mark.parametrize(
    ("ranges", "sentence"),
    [
        (True, r"has no byte after the first 300,000, where 301,000 were expected"),
        (False, r"gives no more after 300,000 of 301,000 bytes, in 3 attempts"),
    ],
)
def test_a_length_that_is_a_lie_comes_to_an_end(server: Any, ranges: bool, sentence: str) -> None:
    server.more, server.ranges = 1000, ranges
    with pytest.raises(ValueError, match=sentence):
        read(server)
    assert len(server.requests) <= 4


def test_no_length_at_all(server: Any) -> None:
    server.more = None
    assert read(server) == server.data


@pytest.mark.parametrize("code", [404, 403, 410])
def test_refusals_are_said_at_once(server: Any, code: int) -> None:
    server.faults = [code] * 9
    with pytest.raises(ValueError, match=f"a.tar.gz answers {code}"):
        read(server)
    assert len(server.requests) == 1


def test_a_server_that_stays_ill_is_left(server: Any) -> None:
    server.faults = [503] * 9
    with pytest.raises(ValueError, match="cannot be reached, in 3 attempts"):
        read(server)
    assert len(server.requests) == 3


def test_a_web_page_is_no_archive(server: Any) -> None:
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(ValueError, match="answers with a web page, not with an archive"):
        read(server)


def test_two_versions_are_not_mixed(server: Any) -> None:
    server.faults = ["drop"]
    file = HttpFile(server.url, **QUICK)
    file.read(10)
    server.etag = "two"
    with pytest.raises(ValueError, match="has changed while it was read"):
        io.BufferedReader(file, 10_000).read()


def test_nobody_at_home() -> None:
    with pytest.raises(ValueError, match=r"127.0.0.1:9/x cannot be reached, in 3 attempts \(.*refused"):
        HttpFile("http://127.0.0.1:9/x", **QUICK)


def test_any_part_of_a_remote_zip_can_be_read(server: Any) -> None:
    buffer, big = io.BytesIO(), server.data
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", big)
        archive.writestr("b", b"short")
    server.data = buffer.getvalue()
    with zipfile.ZipFile(io.BufferedReader(HttpFile(server.url, seekable=True), 1000)) as archive:
        assert archive.read("b") == b"short"
        assert archive.read("a") == big
    assert len(server.requests) < 10, "a member takes one request, not one per buffer"


def test_a_remote_zip_needs_ranges(server: Any) -> None:
    server.ranges = False
    with pytest.raises(ValueError, match="serves no parts of files, which a zip needs"):
        HttpFile(server.url, seekable=True).read(10)


def test_names_and_passwords_are_used_and_never_shown(server: Any) -> None:
    secret = server.url.replace("//", "//me%40home:hun%2Fter2@") + "?sig=SIGNATURE"
    with HttpFile(secret, **QUICK) as file:
        assert file.read(10) == server.data[:10]
    login = "Basic " + base64.b64encode(b"me@home:hun/ter2").decode()
    assert server.asked == [("/a.tar.gz?sig=SIGNATURE", login)]
    for faults in ([401], [403], [503] * 9):
        server.faults = faults
        with pytest.raises(ValueError, match=f"^{server.url} (answers|cannot)") as caught:
            HttpFile(secret, **QUICK)
        assert not re.search("hun|SIGNATURE", str(caught.value))


def test_another_server_does_not_get_the_password(server: Any) -> None:
    HttpFile(server.url.replace("//", "//me:pw@").replace("a.tar.gz", "elsewhere"), **QUICK)
    assert [login is None for _, login in server.asked] == [False, True]


def test_letters_and_spaces_of_an_address_are_quoted_once(server: Any) -> None:
    for path in ("süd/a b%20c 100%.tar#x", "s%C3%BCd/a%20b c%20100%25.tar"):
        HttpFile(server.url.replace("a.tar.gz", path), **QUICK)
    assert {path for path, _ in server.asked} == {"/s%C3%BCd/a%20b%20c%20100%25.tar"}


def pack_from(url: str, out: Path) -> ShardSet:
    pack(PackConfig(source=url, out=out, short_side=64, workers=1, shard_samples=4))
    return ShardSet.open(out)


def test_an_archive_is_packed_from_where_it_lies(server: Any, photos: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(photos, "photos")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(photos, "photos")
    shutil.make_archive(str(tmp_path / "a"), "zip", photos.parent, photos.name)
    expected = pack_from(str(tmp_path / "a.tar.gz"), tmp_path / "local")
    for name, faults in (("a.tar.gz", ["drop"]), ("a.tar", [])):
        server.data, server.faults = (tmp_path / name).read_bytes(), faults
        data = pack_from(server.url, tmp_path / f"{name}.out")
        assert data.digest == expected.digest
    server.data = (tmp_path / "a.zip").read_bytes()
    data = pack_from(server.url.replace("a.tar.gz", "datafile/123?format=original"), tmp_path / "a.zip.out")
    assert data.num_samples == 9


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_nothing_that_is_written_holds_a_secret(
    is_interrupted: bool,
    server: Any,
    photos: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for photo in sorted(photos.iterdir())[:4]:
            archive.add(photo, photo.name)
    server.data, out = (tmp_path / "a.tar").read_bytes(), tmp_path / "out"
    secret = server.url.replace("//", "//me:hunter2@") + "?sig=SIGNATURE"
    if is_interrupted:
        monkeypatch.setattr("photochrom.pipelines.packing.pack.write_manifest", None)
    monkeypatch.setenv("PHOTOCHROM_TRACEBACK", "1")
    with suppress(TypeError):
        assert main(["pack", secret, str(out), "--short-side", "64", "--workers", "1"]) == 0
    written = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert ".packing/identity.json" in written if is_interrupted else "manifest.json" in written
    written["output"] = "".join(capfd.readouterr()).encode()
    assert [name for name, data in written.items() if re.search(b"hunter2|SIGNATURE", data)] == []


def test_what_is_no_archive_at_an_address(server: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the archive http.* is incomplete or damaged"):
        pack_from(server.url, tmp_path / "out")
    server.faults = [404]
    with pytest.raises(ValueError, match="answers 404"):
        pack_from(server.url, tmp_path / "out")
    server.kind = "text/html"
    with pytest.raises(ValueError, match="answers with a web page"):
        pack_from(server.url, tmp_path / "out")
    assert not (tmp_path / "out").exists()
