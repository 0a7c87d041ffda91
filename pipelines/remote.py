"""Shard sets on object stores: the part of pathlib.Path that they need, over a server.

One listing tells the sizes of all files; otherwise each would take a request.
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from .address import quote_path, without_secrets

T = TypeVar("T")

_URL = re.compile(r"[a-z][a-z0-9+]+://")  # more than one letter: C:\ is a disk
_CREDENTIALS = "credentials and endpoint come from the environment: AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL ..."
_URL_AS_PATH = re.compile(r"[a-z][a-z0-9+]+:/")

_obstore_process = 0  # the id of the process that used it first


def open_folder(root: Any) -> "Path | RemotePath":
    """Returns the folder at a path or URL. Raises ValueError when a server does not list it."""
    text = str(root)
    if not _URL.match(text):
        return Path(root)
    if "?" in text or "@" in text.split("/")[2]:
        raise ValueError(f"{without_secrets(text)} takes no user, password or query in its address: {_CREDENTIALS}")
    return RemotePath.open(text.rstrip("/"))


def check_local(path: Path, name: str) -> None:
    """Raises ValueError for the URL of an object store that was parsed as a path."""
    if _URL_AS_PATH.match(str(path)):
        shown = without_secrets(str(path))
        raise ValueError(f"{name} {shown} is not a folder on this machine: name one, and copy it from or to the store")


class RemotePath:
    """A folder on an object store, or a file in it; read only.

    Every method raises FileNotFoundError when nothing is there, and ValueError with one sentence on any other failure.
    """

    def __init__(self, url: str, store: Any, sizes: dict[str, int], key: str = "") -> None:
        self._url, self._store, self._sizes, self._key = url, store, sizes, key

    @classmethod
    def open(cls, url: str) -> "RemotePath":
        """Lists the folder at a URL. Raises ImportError that says what to install."""
        try:
            import obstore
        except ImportError:
            raise ImportError(f"{url} is read by obstore, which is not installed: pip install obstore") from None
        quoted = quote_path(url)
        store = _request(url, lambda: obstore.store.from_url(quoted, client_options={"allow_http": True}))
        files = _request(url, lambda: obstore.list(store).collect())
        return cls(url, store, {file["path"]: file["size"] for file in files})

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(self._url, self._store, self._sizes, f"{self._key}/{name}" if self._key else name)

    def __str__(self) -> str:
        return f"{self._url}/{self._key}" if self._key else self._url

    @property
    def name(self) -> str:
        return str(self).rpartition("/")[2]

    @property
    def stem(self) -> str:
        return self.name.rpartition(".")[0] or self.name

    def resolve(self) -> "RemotePath":
        return self

    def is_dir(self) -> bool:
        return any(file.startswith(f"{self._key}/") for file in self._sizes) if self._key else bool(self._sizes)

    def exists(self) -> bool:
        return self._key in self._sizes or self.is_dir()

    def stat(self) -> Any:
        """Returns an object with st_size, as that of os.stat."""
        if self._key not in self._sizes:
            raise FileNotFoundError(str(self))
        return SimpleNamespace(st_size=self._sizes[self._key])

    def read_bytes(self) -> bytes:
        import obstore

        self.stat()
        return bytes(_request(str(self), lambda: obstore.get(self._store, self._key).bytes()))

    def read_ranges(self, starts: Sequence[int], lengths: Sequence[int], *, gap: int = 0) -> list[Any]:
        """Returns buffers of these bytes; ranges at most `gap` bytes apart are requested as one."""
        import obstore

        return _request(
            str(self), lambda: obstore.get_ranges(self._store, self._key, starts=starts, lengths=lengths, coalesce=gap)
        )


def _request(url: str, send: Callable[[], T]) -> T:
    """Returns the server's answer; obstore itself retries when the server is busy or slow."""
    global _obstore_process
    import obstore

    _obstore_process = _obstore_process or os.getpid()
    if _obstore_process != os.getpid():
        raise ValueError(
            f"{url} cannot be read in a process that was forked after the first use of obstore, which would wait for "
            "its threads forever: start the process by the method 'spawn'"
        )
    try:
        return send()
    except (obstore.exceptions.BaseError, OSError, ValueError) as error:
        # Servers give the reason in XML, behind a line about the request.
        code = re.search(r"<Code>(.*?)</Code>", str(error))
        reason = code.group(1) if code else (str(error).strip() or repr(error)).splitlines()[0]
        raise ValueError(f"{url} cannot be read: {reason} ({_CREDENTIALS})") from None
