import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from photochrom.pipelines.packing import download as download_module
from photochrom.pipelines.packing.download import RELEASES, DownloadConfig, Release, download

QUICK = {"pauses": (0.01, 0.01), "timeout": 0.3}


@pytest.fixture(autouse=True)
def small(server: Any, monkeypatch: pytest.MonkeyPatch) -> Release:
    """SUN397's archive is, for once, that of the server."""
    release = Release(
        file="SUN397.tar.gz",
        url="http://127.0.0.1:9/SUN397.tar.gz",
        bytes=len(server.data),
        algorithm="sha256",
        checksum=hashlib.sha256(server.data).hexdigest(),
    )
    monkeypatch.setitem(RELEASES, "sun397", release)
    return release


def downloaded(tmp_path: Path, **settings: Any) -> Path:
    return download(DownloadConfig(release="sun397", out=tmp_path / "data", **settings), **QUICK)


def test_a_download_is_checked_and_takes_its_name(server: Any, tmp_path: Path) -> None:
    server.faults = ["drop", 503, "stall"]
    reported: list[tuple[int, int | None]] = []
    config = DownloadConfig(release="sun397", out=tmp_path / "data", url=server.url)
    archive = download(config, progress=lambda done, total: reported.append((done, total)), **QUICK)
    assert archive == tmp_path / "data" / "SUN397.tar.gz"
    assert archive.read_bytes() == server.data
    assert os.listdir(tmp_path / "data") == ["SUN397.tar.gz"]
    assert reported[-1] == (300_000, 300_000)
    asked = len(server.requests)
    assert downloaded(tmp_path, url=server.url) == archive
    assert len(server.requests) == asked, "what is here is not downloaded again"


def test_a_download_goes_on_where_it_broke_off(server: Any, tmp_path: Path) -> None:
    server.faults = ["drop", 503, 503]
    with pytest.raises(ValueError, match=r"gives no more after 100,000 of 300,000 bytes, in 3 attempts"):
        downloaded(tmp_path, url=server.url)
    assert os.listdir(tmp_path / "data") == ["SUN397.tar.gz.part"]
    server.requests.clear()
    assert downloaded(tmp_path, url=server.url).read_bytes() == server.data
    assert server.requests == ["bytes=100000-"]


def test_a_server_that_ignores_ranges_is_read_again(server: Any, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "SUN397.tar.gz.part").write_bytes(server.data[:1000])
    server.ranges = False
    assert downloaded(tmp_path, url=server.url).read_bytes() == server.data


def test_one_wrong_byte_is_seen_and_the_file_kept(server: Any, tmp_path: Path, small: Release) -> None:
    wrong = bytearray(server.data)
    wrong[777] ^= 1
    server.data = bytes(wrong)
    digest = hashlib.sha256(wrong).hexdigest()
    with pytest.raises(
        ValueError, match=f"the sha256 {digest}, where the published SUN397.tar.gz has {small.checksum}; it is kept as"
    ):
        downloaded(tmp_path, url=server.url)
    assert (tmp_path / "data" / "SUN397.tar.gz.other").read_bytes() == wrong
    assert not (tmp_path / "data" / "SUN397.tar.gz").exists()


def test_another_file_is_refused_before_it_is_downloaded(server: Any, tmp_path: Path) -> None:
    server.data = server.data[:-1]
    with pytest.raises(
        ValueError,
        match=r"the server has 299,999 bytes, where the published SUN397.tar.gz has 300,000: find another mirror",
    ):
        downloaded(tmp_path, url=server.url)
    assert not (tmp_path / "data" / "SUN397.tar.gz.part").exists()


def test_a_disk_without_room_is_seen_before(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = download_module.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match="has room for 1,000 more bytes, and 300,000 are needed"):
        downloaded(tmp_path, url=server.url)


def test_the_dead_official_host_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"127.0.0.1:9/.* the official host .* --url, .* --from-file"):
        downloaded(tmp_path)


@pytest.mark.parametrize("fault", [404, "page"])
def test_what_a_mirror_lacks_is_said_without_that(server: Any, tmp_path: Path, fault: Any) -> None:
    server.faults = [fault]
    server.kind = "text/html" if fault == "page" else server.kind
    with pytest.raises(ValueError, match="answers") as caught:
        downloaded(tmp_path, url=server.url)
    assert "official" not in str(caught.value)


def test_a_file_that_is_here_is_checked_and_stays(server: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.tgz").write_bytes(server.data)
    assert downloaded(tmp_path, from_file=tmp_path / "mine.tgz") == tmp_path / "mine.tgz"
    (tmp_path / "mine.tgz").write_bytes(server.data[:-5])
    with pytest.raises(ValueError, match=r"mine.tgz has 299,995 bytes, where the published SUN397.tar.gz has 300,000"):
        downloaded(tmp_path, from_file=tmp_path / "mine.tgz")
    with pytest.raises(ValueError, match=r"no.tgz cannot be read: No such file"):
        downloaded(tmp_path, from_file=tmp_path / "no.tgz")
    assert (tmp_path / "mine.tgz").exists()


def test_settings_that_contradict() -> None:
    with pytest.raises(ValueError, match="--url ftp://x is not an http or https address"):
        DownloadConfig(release="sun397", url="ftp://x")
    with pytest.raises(ValueError, match="exclude each other"):
        DownloadConfig(release="sun397", url="http://x", from_file=Path("x"))


def test_the_command_is_interrupted_and_goes_on(server: Any, tmp_path: Path) -> None:
    server.faults = ["stall"]
    command = [sys.executable, "-m", "photochrom", "download", "sun2012", "--out", str(tmp_path), "--url", server.url]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    part = tmp_path / "SUN2012.tar.gz.part"
    while not part.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted: the same command continues from here" in errors
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 1  # it is not SUN2012 after all
    assert "has the md5" in again.stderr
    assert (tmp_path / "SUN2012.tar.gz.other").read_bytes() == server.data
