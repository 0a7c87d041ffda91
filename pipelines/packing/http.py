"""Bytes behind an http(s) URL, over connections that drop and stall, from servers that lie."""

import http.client
import io
import re
import socket
import ssl
import time
from abc import abstractmethod
from collections.abc import Callable
from typing import TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import Request, urlopen

from ... import __version__

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each new attempt, as long as none brings a byte
TIMEOUT = 30.0  # seconds without a byte after which a connection has stalled

_PASSING = (408, 425, 429, 500, 502, 503, 504)
_FAILURES = (OSError, http.client.HTTPException)  # of connections; URLError, HTTPError and TimeoutError are OSErrors


def is_url(text: str) -> bool:
    return urlsplit(text).scheme in ("http", "https")


def without_secrets(source: str) -> str:
    """The source as it may be shown: a URL without name, password and query."""
    if not is_url(source):
        return source
    parts = urlsplit(source)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


T = TypeVar("T")


class _Reader(io.RawIOBase):
    """What both kinds of reading share: a response, asked for again when it fails."""

    def __init__(
        self, url: str, *, start: int = 0, pauses: tuple[float, ...] = PAUSES, timeout: float = TIMEOUT
    ) -> None:
        self._url, self._pauses, self._timeout = url, pauses, timeout
        self._position = start
        self.version = ""  # the ETag, or the date of the last change: parts of two versions must not be mixed
        self.total: int | None = None
        self._response: http.client.HTTPResponse | None = None
        self._retrying(self._connect)

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._retrying(lambda: self._get(len(buffer)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._disconnect()
        super().close()

    @abstractmethod
    def _get(self, size: int) -> bytes:
        """Up to so many bytes from the position on; none at the end."""

    def _retrying(self, work: Callable[[], T]) -> T:
        """`work`, tried again after each passing failure; raises ValueError after the last."""
        for pause in (*self._pauses, None):
            try:
                return work()
            except _FAILURES as error:
                self._disconnect()
                if isinstance(error, HTTPError) and error.code not in _PASSING:
                    raise ValueError(f"{self._url} answers {error.code} {error.reason}") from None
                if isinstance(error, URLError) and isinstance(error.reason, socket.gaierror | ssl.SSLError):
                    raise ValueError(f"{self._url} cannot be reached ({error.reason}): is the address right?") from None
                failure = error
            if pause is not None:
                time.sleep(pause)
        reason = failure.reason if isinstance(failure, URLError) else failure
        of = f" of {self.total:,}" if self.total is not None else ""
        after = (
            f"gives no more after {self._position:,}{of} bytes" if self.version or self.total else "cannot be reached"
        )
        raise ValueError(
            f"{self._url} {after}, in {len(self._pauses) + 1} attempts ({reason or type(reason).__name__}): try again "
            "later, or from elsewhere"
        )

    def _connect(self) -> None:
        """Asks for the bytes from the position on."""
        try:
            response = self._ask(f"bytes={self._position}-" if self._position else "")
        except HTTPError as error:
            if error.code != 416:
                raise
            self._check_end(error)
            return
        self._response = response
        if "text/html" in response.headers.get("Content-Type", ""):
            raise ValueError(f"{self._url} answers with a web page, not with an archive: it may have moved")
        self._check_version(response)
        length = response.headers.get("Content-Length")
        begins, total = 0, int(length) if length else None
        if response.status == 206:
            begins, total = self._range_of(response)
        if self.total is not None and total is not None and total != self.total:
            raise ValueError(f"{self._url} has {total:,} bytes, and had {self.total:,} before: it has changed")
        self.total = total if self.total is None else self.total
        if begins < self._position:
            self._skip(self._position - begins)

    def _ask(self, part: str) -> http.client.HTTPResponse:
        headers = {"User-Agent": f"photochrom/{__version__}", "Accept-Encoding": "identity"}
        if part:
            headers["Range"] = part
        response: http.client.HTTPResponse = urlopen(Request(self._url, headers=headers), timeout=self._timeout)
        return response

    def _range_of(self, response: http.client.HTTPResponse) -> tuple[int, int | None]:
        """Where the part that is sent begins, and the length of the whole."""
        found = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", found)
        if match is None or int(match[1]) > self._position:
            raise ValueError(f"{self._url} sends another part ({found or 'unnamed'}) than byte {self._position:,} on")
        return int(match[1]), None if match[2] == "*" else int(match[2])

    def _check_end(self, error: HTTPError) -> None:
        """There is nothing from the position on: is that where the file ends?"""
        match = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
        if self.total is None and match and int(match[1]) == self._position:
            self.total = self._position
        if self.total != self._position:
            announced = "more" if self.total is None else f"{self.total:,}"
            raise ValueError(
                f"{self._url} has no byte after the first {self._position:,}, where {announced} were expected"
            )

    def _check_version(self, response: http.client.HTTPResponse) -> None:
        version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        if self.version and version != self.version:
            raise ValueError(f"{self._url} has changed while it was read: run the same command again")
        self.version = version

    def _skip(self, count: int) -> None:
        """Passes over what was read before, for a server that begins anew whatever it is asked."""
        while count:
            assert self._response is not None
            passed = len(self._response.read(min(count, 1 << 20)))
            if not passed:
                raise ConnectionError(f"the answer ends {count:,} bytes before the place")
            count -= passed

    def _disconnect(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None


class Download(_Reader):
    """The bytes from `start` to the end, once, over as many connections as it takes.

    `total` is the length of the whole in bytes, if the server says it. Raises ValueError when the server refuses, or
    after several attempts in a row that brought nothing.
    """

    def _get(self, size: int) -> bytes:
        if self.total is not None and self._position >= self.total:
            return b""
        if self._response is None:
            self._connect()
            if self._response is None:
                return b""
        data = self._response.read1(size)  # read would lose what came before a stall
        if not data and self.total is not None:
            raise ConnectionError("the answer ends too early")
        return data


class RemoteFile(_Reader):
    """A file of which any part can be read, from a server that serves ranges. Raises ValueError as Download does."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._disconnect()  # its length is all that was wanted

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if self.total is None:
            raise ValueError(f"{self._url} does not say how long it is: download it, and name the file")
        place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.total}[whence]
        if place != self._position:
            self._disconnect()
            self._position = place
        return place

    def _get(self, size: int) -> bytes:
        assert self.total is not None
        end = min(self._position + size, self.total)
        if end <= self._position:
            return b""
        with self._ask(f"bytes={self._position}-{end - 1}") as response:
            if response.status != 206:
                raise ValueError(f"{self._url} serves no parts of files, which a zip needs: download it, name the file")
            self._check_version(response)
            if self._range_of(response)[0] != self._position:
                raise ValueError(f"{self._url} sends other parts than it is asked for: download it, name the file")
            data = response.read()
        if len(data) != end - self._position:
            raise ConnectionError("the answer ends too early")
        return data
