"""Downloads the archives of SUN2012 and SUN397, resumes broken downloads, and checks their checksums."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..files import sync
from ..output_dir import claim_output
from .http import PAUSES, TIMEOUT, HttpFile, is_url

_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Release:
    """A published archive: file name, official address, size in bytes if known, and checksum."""

    file: str
    url: str
    bytes: int | None
    algorithm: Literal["sha256", "md5"]
    checksum: str


# Sizes and sha256 are those of TensorFlow Datasets (url_checksums/sun397.txt); SUN2012's md5 has a single source, the
# download script of a published code base.
RELEASES = {
    "sun2012": Release(
        file="SUN2012.tar.gz",
        url="http://groups.csail.mit.edu/vision/SUN/releases/SUN2012.tar.gz",
        bytes=None,
        algorithm="md5",
        checksum="5188e9503debd4511fa45cc856fb46ce",
    ),
    "sun397": Release(
        file="SUN397.tar.gz",
        url="http://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz",
        bytes=39_077_296_924,
        algorithm="sha256",
        checksum="f404130965a7ad77bed5ececc71e720ab50f3cc1e1bb257257610d38f3b928ec",
    ),
    "sun397-partitions": Release(
        file="Partitions.zip",
        url="http://vision.princeton.edu/projects/2010/SUN/download/Partitions.zip",
        bytes=18_293_705,
        algorithm="sha256",
        checksum="e3311ea5f812d4cc6faef194688343d1111f6cd6f70f2c62f393c2b8d6ba1ec9",
    ),
}

_MIRRORS = (
    "the official host stopped serving it in 2025; give a mirror's address with --url, whose download is checked all "
    "the same, or name a copy that you have with --from-file"
)


@dataclass(frozen=True, kw_only=True)
class DownloadConfig:
    """Downloads the archive of a data set, resumes a broken download, and compares the published checksum.

    Args:
        release: The archive.
        out: Folder for the archive.
        url: Address of a mirror; the official addresses do not work any more.
        from_file: Check this file, which stays where it is, instead of downloading one.
    """

    release: Literal["sun2012", "sun397", "sun397-partitions"]
    out: Path = Path()
    url: str | None = None
    from_file: Path | None = None

    def __post_init__(self) -> None:
        if self.url is not None and not is_url(self.url):
            raise ValueError(f"--url {self.url} is not an http or https address")
        if self.url is not None and self.from_file is not None:
            raise ValueError("--url and --from-file exclude each other: give one of them")


def download(
    config: DownloadConfig,
    *,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
    pauses: tuple[float, ...] = PAUSES,
    timeout: float = TIMEOUT,
) -> Path:
    """Returns the path of the release's archive, whole and checked; `progress` is called with bytes done and in all.

    `pauses` and `timeout` are those of `HttpFile`.

    Raises ValueError: a broken download stays for the next time, and a file that is not the release is kept under
    another name.
    """
    release = RELEASES[config.release]
    if config.from_file is not None:
        return _check(config.from_file, release, progress)
    target = config.out / release.file
    with claim_output(config.out):
        if target.exists():
            return _check(target, release, progress)
        part = target.with_name(f"{target.name}.part")
        done = part.stat().st_size if part.exists() else 0
        if done != release.bytes:
            try:
                remote = HttpFile(config.url or release.url, start=done, pauses=pauses, timeout=timeout)
            except ValueError as error:
                raise ValueError(str(error) if config.url else f"{error}: {_MIRRORS}") from None
            with remote:
                _append(remote, part, release, progress)
        try:
            _check(part, release, progress)
        except ValueError as error:
            part.rename(other := target.with_name(f"{target.name}.other"))
            raise ValueError(f"{error}; it is kept as {other}: pack it if you know what it is") from None
        part.rename(target)
        sync(target.parent)
    return target


def _append(remote: HttpFile, part: Path, release: Release, progress: Callable[[int, int | None], None]) -> None:
    """Appends the missing bytes to `part`."""
    done = remote.tell()
    total = remote.total if remote.total is not None else release.bytes
    if total is not None and release.bytes not in (None, total):
        raise ValueError(
            f"the server has {total:,} bytes, where the published {release.file} has {release.bytes:,}: find another "
            "mirror, or 'photochrom pack' that address if you know what it is"
        )
    if total is not None and total - done > (free := shutil.disk_usage(part.parent).free):
        raise ValueError(f"{part.parent} has room for {free:,} more bytes, and {total - done:,} are needed")
    try:
        with open(part, "ab") as file:
            while data := remote.read(_CHUNK):
                file.write(data)
                done += len(data)
                progress(done, total)
                if release.bytes is not None and done > release.bytes:
                    break  # the server does not say how much it sends
        sync(part)
    except OSError as error:
        raise ValueError(f"cannot write to {part}: {error.strerror}; run the same command again to resume") from error
    if total is not None and done < total:
        raise ValueError(f"{part} is incomplete: {done:,} of {total:,} bytes; run the same command again to resume")


def _check(file: Path, release: Release, progress: Callable[[int, int | None], None]) -> Path:
    """Returns the file if it has the release's size and checksum. Raises ValueError that shows both."""
    try:
        size = file.stat().st_size
        if release.bytes is not None and size != release.bytes:
            raise ValueError(f"{file} has {size:,} bytes, where the published {release.file} has {release.bytes:,}")
        digest = hashlib.new(release.algorithm, usedforsecurity=False)
        with open(file, "rb") as stream:
            while data := stream.read(_CHUNK):
                digest.update(data)
                progress(stream.tell(), size)
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from None
    if digest.hexdigest() != release.checksum:
        raise ValueError(
            f"{file} has the {release.algorithm} {digest.hexdigest()}, where the published {release.file} has "
            f"{release.checksum}"
        )
    return file
