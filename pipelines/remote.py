"""Shard sets on object stores: as much of pathlib.Path as they need, asked of a server.

One listing tells the sizes of all files, whose number would else be the number of requests.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

T = TypeVar("T")

_URL = re.compile(r"[a-z][a-z0-9+]+://")  # of more than one letter: C:\ is a disk
_URL_AS_PATH = re.compile(r"[a-z][a-z0-9+]+:/")
INSTALL_OBSTORE = "pip install obstore"


def place_of(root: Any) -> "Path | RemotePath":
    """The folder that a path or a URL names. Raises ValueError when a server does not tell what is there."""
    return RemotePath.of_url(str(root).rstrip("/")) if _URL.match(str(root)) else Path(root)


def check_local(path: Path, name: str) -> None:
    """Raises ValueError for the URL of an object store, which a path has become."""
    if _URL_AS_PATH.match(str(path)):
        raise ValueError(f"{name} {path} is no folder on this machine: name one, and copy it from or to the store")


class RemotePath:
    """A folder on an object store, or a file in it; read only.

    Every method raises FileNotFoundError when nothing is there, and ValueError with one sentence on any other failure.
    """

    def __init__(self, url: str, store: Any, sizes: dict[str, int], key: str = "") -> None:
        self._url, self._store, self._sizes, self._key = url, store, sizes, key

    @classmethod
    def of_url(cls, url: str) -> "RemotePath":
        """The folder at a URL, listed. Raises ImportError that says what to install."""
        try:
            import obstore
        except ImportError:
            raise ImportError(f"{url} is read by obstore, which is not installed: {INSTALL_OBSTORE}") from None
        store = _asked(url, lambda: obstore.store.from_url(url, client_options={"allow_http": True}))
        listed = _asked(url, lambda: obstore.list(store).collect())
        return cls(url, store, {file["path"]: file["size"] for file in listed})

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
        """Of os.stat's result, st_size."""
        if self._key not in self._sizes:
            raise FileNotFoundError(str(self))
        return SimpleNamespace(st_size=self._sizes[self._key])

    def read_text(self) -> str:
        import obstore

        self.stat()
        return bytes(_asked(str(self), lambda: obstore.get(self._store, self._key).bytes())).decode()

    def read_ranges(self, starts: Sequence[int], lengths: Sequence[int], *, gap: int = 0) -> list[Any]:
        """Buffers of these bytes; ranges that lie `gap` bytes apart or less are asked for as one."""
        import obstore

        return _asked(
            str(self),
            lambda: obstore.get_ranges(self._store, self._key, starts=starts, lengths=lengths, coalesce=gap),
        )


def _asked(url: str, ask: Callable[[], T]) -> T:
    """What a server answers. obstore asks again by itself when it is busy or slow."""
    import obstore

    try:
        return ask()
    except (obstore.exceptions.BaseError, OSError, ValueError) as error:
        # Servers say why in XML, behind a line about the request.
        told = re.search(r"<Code>(.*?)</Code>", str(error))
        why = told.group(1) if told else (str(error).strip() or repr(error)).splitlines()[0]
        raise ValueError(
            f"{url} cannot be read: {why} (credentials and endpoint are those of the environment, AWS_ACCESS_KEY_ID, "
            "AWS_ENDPOINT_URL ...)"
        ) from None
