"""Reads files behind http(s) URLs, over connections that drop and stall, and from servers that misbehave.

Written by hand on urllib: no library that we know resumes in the middle of a file and checks that it is still the same
file (fsspec, pooch, requests and smart_open do not; urllib3 only takes over the counting of attempts).
"""

import http.client
import io
import re
import socket
import ssl
import time
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from ... import __version__
from ..address import parse_http, without_secrets

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each new attempt, as long as none brings a byte
TIMEOUT = 30.0  # seconds without a byte after which a connection has stalled

_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)  # statuses worth another attempt
_LOGIN_HINT = ": give it the right user name and password before the host (NAME:PASSWORD@), or a new signature"
_FAILURES = (OSError, http.client.HTTPException)  # URLError, HTTPError and TimeoutError are OSErrors


class HttpFile(io.RawIOBase):
    """The bytes of a file behind a URL, over as many connections as it takes; messages show no secrets of the URL.

    `total` is the length of the whole file in bytes, None if the server does not tell. `version` is its ETag, or the
    date of its last change. With `seekable`, any part can be read; the server must then serve ranges. `pauses` are the
    seconds before each new attempt; a connection without a byte for `timeout` seconds has stalled.

    Raises ValueError when the server refuses, when the file changes, or after several attempts in a row that brought
    no byte.
    """

    def __init__(
        self, url: str, *, seekable: bool = False, pauses: tuple[float, ...] = PAUSES, timeout: float = TIMEOUT
    ) -> None:
        self._url, self._login = parse_http(url)
        self._shown = without_secrets(url)
        self._seekable, self._pauses, self._timeout = seekable, pauses, timeout
        self._position = 0
        self._response: http.client.HTTPResponse | None = None
        self.total: int | None = None
        self.version = ""
        self._retrying(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._seekable

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.total or 0}[whence]
        if position != self._position:
            self._disconnect()
            self._position = position
        return position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._retrying(len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._disconnect()
        super().close()

    def _retrying(self, size: int) -> bytes:
        """Returns up to `size` bytes, none at the end, after as many attempts as it takes."""
        for pause in (*self._pauses, None):
            try:
                return self._read(size)
            except _FAILURES as error:
                self._disconnect()
                reason = error.reason if isinstance(error, URLError) else error
                if isinstance(error, HTTPError) and error.code not in _TEMPORARY:
                    hint = _LOGIN_HINT if error.code in (401, 403) else ""
                    raise ValueError(f"{self._shown} answers {error.code} {error.reason}{hint}") from None
                if isinstance(error, URLError) and isinstance(reason, socket.gaierror | ssl.SSLError):
                    raise ValueError(f"{self._shown} cannot be reached ({reason}): is the address right?") from None
            if pause is not None:
                time.sleep(pause)
        of = f" of {self.total:,}" if self.total is not None else ""
        connected = self.version or self.total
        problem = f"gives no more after {self._position:,}{of} bytes" if connected else "cannot be reached"
        raise ValueError(
            f"{self._shown} {problem}, in {len(self._pauses) + 1} attempts ({reason or type(reason).__name__}): try "
            "again later, or from elsewhere"
        )

    def _read(self, size: int) -> bytes:
        if self.total is not None and self._position >= self.total:
            return b""
        if self._response is None:
            self._connect()
        if self._response is None or not size:
            return b""
        data = self._response.read1(size)  # read() would lose what came before a stall
        if not data and self.total is not None:
            raise ConnectionError("the answer ends too early")
        return data

    def _connect(self) -> None:
        """Requests the bytes from the position on; leaves no response if the file ends there."""
        headers = {"User-Agent": f"photochrom/{__version__}", "Accept-Encoding": "identity"}
        if self._position or self._seekable:
            headers["Range"] = f"bytes={self._position}-"
        try:
            request = Request(self._url, headers=headers)
            request.unredirected_hdrs.update(self._login)  # not for the server that an address redirects to
            self._response = urlopen(request, timeout=self._timeout)
        except HTTPError as error:
            if error.code != 416:
                raise
            self._check_end(error)
            return
        if "text/html" in self._response.headers.get("Content-Type", ""):
            raise ValueError(f"{self._shown} answers with a web page, not with an archive: it may have moved")
        if self._seekable and self._response.status != 206:
            raise ValueError(f"{self._shown} serves no parts of files, which a zip needs: download it, name the file")
        self._check_version(self._response)
        self._skip(self._response, self._position - self._check_range(self._response))

    def _check_range(self, response: http.client.HTTPResponse) -> int:
        """Returns the offset at which the response begins, after comparing the file's length with the known one."""
        length = response.headers.get("Content-Length", "")
        start, total = 0, int(length) if re.fullmatch(r"\d{1,18}", length) else None
        if response.status == 206:
            content_range = response.headers.get("Content-Range", "")
            match = re.fullmatch(r"bytes (\d{1,18})-\d+/(\d{1,18}|\*)", content_range)
            if match is None or int(match[1]) > self._position:
                sent = content_range or "unnamed"
                raise ValueError(f"{self._shown} sends another part ({sent}) than byte {self._position:,} on")
            start, total = int(match[1]), None if match[2] == "*" else int(match[2])
        if self._seekable and total is None:
            raise ValueError(f"{self._shown} does not say how long it is: download it, and name the file")
        if self.total is not None and total is not None and total != self.total:
            raise ValueError(f"{self._shown} has {total:,} bytes, and had {self.total:,} before: it has changed")
        self.total = total if self.total is None else self.total
        return start

    def _check_end(self, error: HTTPError) -> None:
        """Raises ValueError unless the file ends at the position, from which on the server has no byte."""
        match = re.fullmatch(r"bytes \*/(\d{1,18})", error.headers.get("Content-Range", ""))
        if self.total is None and match and int(match[1]) == self._position:
            self.total = self._position
        if self.total != self._position:
            announced = "more" if self.total is None else f"{self.total:,}"
            raise ValueError(
                f"{self._shown} has no byte after the first {self._position:,}, where {announced} were expected"
            )

    def _check_version(self, response: http.client.HTTPResponse) -> None:
        version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        if self.version and version != self.version:
            raise ValueError(f"{self._shown} has changed while it was read: run the same command again")
        self.version = version

    def _skip(self, response: http.client.HTTPResponse, count: int) -> None:
        """Reads past bytes that are known already, from a server that ignores ranges."""
        while count:
            skipped = len(response.read(min(count, 1 << 20)))
            if not skipped:
                raise ConnectionError(f"the answer ends {count:,} bytes before the position")
            count -= skipped

    def _disconnect(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None
