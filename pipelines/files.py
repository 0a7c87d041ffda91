"""Durable files that appear whole or not at all, and folders with one writer at a time."""

import errno
import hashlib
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

# Errors of fsync on folders (CIFS, 9p, vboxsf, WSL, some FUSE mounts), and of opening folders that may not be listed.
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors of write, which do not name the file


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write; afterwards the file gets its name, at once and durably, or not at all.

    Its mode is that of the umask, whatever a library sets. An OSError about the temporary path names `path`.
    """
    # The length is fixed, because the file's own name can be as long as the system allows.
    temporary = path.with_name(f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # of a process that was killed
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        with suppress(OSError):  # some network shares have modes of their own
            temporary.chmod(mode)
        sync(temporary)
        temporary.rename(path)
        sync(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and (error.filename == str(temporary) or error.errno in _FULL):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def bounded_name(name: str) -> str:
    """Returns the first 100 bytes of a name, so that it can be part of a file name, which has at most 255."""
    data = os.fsencode(name)
    return name if len(data) <= 100 else data[:100].decode(errors="ignore")


def sync(path: Path) -> None:
    """Calls fsync for a file or a folder; file systems that have no fsync are skipped."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
        _say_not_durable(str(error.strerror))


@cache
def _say_not_durable(reason: str) -> None:
    logging.getLogger(__name__).debug("files may be lost in a power failure: the file system cannot sync (%s)", reason)


@contextmanager
def utf8_path(path: Path) -> Iterator[str]:
    """Yields a path of the file in UTF-8, for libraries that take no others. Raises OSError."""
    with open(path, "rb") as file:
        is_utf8 = str(path).encode(errors="replace") == os.fsencode(path)
        yield str(path) if is_utf8 else f"/proc/self/fd/{file.fileno()}"


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Locks a folder against other processes that lock it. Raises ValueError when another process holds the lock."""
    import fcntl  # missing on Windows, which can still read shard sets

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is writing to {folder}: wait for it, or name another folder") from None
        except OSError:
            pass  # some network file systems have no locks
        yield
    finally:
        os.close(descriptor)


def check_regular(path: Path) -> None:
    """Raises ValueError for a pipe, a device or a socket, which could be read for ever, and OSError for no file."""
    if not stat.S_ISREG(mode := os.stat(path).st_mode) and not stat.S_ISDIR(mode):
        raise ValueError(f"{path} is a pipe or a device: copy its content into a file")


def sha256_of(path: Path) -> str:
    """Returns the sha256 of a file, in hexadecimal. Raises ValueError for a pipe or a device."""
    check_regular(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
