"""Reads uploads into memory, up to a limit, and never to disk."""

import asyncio
import logging
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from fastapi import HTTPException
from python_multipart.exceptions import FormParserError  # fails now if missing; Starlette needs it for the first form
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from .connections import GRACE_SECONDS, MIN_RATE

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # a broken form concerns its sender alone

_MAX_FORM_BYTES = 1 << 16  # besides the file
_TIMEOUT = 60.0  # seconds for an upload
_DRAIN_TIMEOUT = 5.0  # seconds to discard the rest of an upload that is too large


@dataclass(frozen=True, kw_only=True)
class Upload:
    """An uploaded file, and the other fields of the form."""

    data: bytes
    name: str
    fields: dict[str, str]


class _InMemoryParser(MultiPartParser):
    spool_max_size = sys.maxsize  # larger files would go to disk


class UploadMemory:
    """Counts the bytes of all uploads in memory."""

    def __init__(self, max_bytes: int) -> None:
        self._free = max_bytes

    @contextmanager
    def hold(self) -> Iterator[Callable[[int], None]]:
        """Yields a function that takes a number of bytes, or raises HTTPException with 503; all are given back."""
        held = 0

        def take(size: int) -> None:
            nonlocal held
            if size > self._free:
                raise busy()
            self._free, held = self._free - size, held + size

        try:
            yield take
        finally:
            self._free += held


def busy() -> HTTPException:
    """Returns the response to a request that could not be taken now."""
    return HTTPException(503, "the server is busy: try again in a moment", {"Retry-After": "2"})


async def read_upload(request: Request, limit: int, take: Callable[[int], None]) -> Upload:
    """Reads a form with a file of at most `limit` bytes, and calls `take` with the size of each piece.

    Raises HTTPException with 408, 413, 415 or 422.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise HTTPException(415, "send the image as the field 'file' of a multipart/form-data form")
    too_large = HTTPException(413, f"the file is larger than the limit of {limit / 1e6:g} MB")
    start = asyncio.get_running_loop().time()

    async def pieces() -> AsyncGenerator[bytes]:
        size = 0
        async for piece in request.stream():
            take(len(piece))
            size += len(piece)
            if size > limit + _MAX_FORM_BYTES:
                raise too_large
            deadline.reschedule(start + min(_TIMEOUT, GRACE_SECONDS + size / MIN_RATE))
            yield piece

    try:
        async with asyncio.timeout(GRACE_SECONDS) as deadline:
            if int(request.headers.get("content-length", 0)) > limit + _MAX_FORM_BYTES:
                raise too_large
            parser = _InMemoryParser(request.headers, pieces(), max_files=1, max_fields=8, max_part_size=1024)
            upload = await _extract_upload(await parser.parse())
        if len(upload.data) > limit:
            raise too_large
        return upload
    except (MultiPartException, FormParserError, UnicodeError) as error:  # UnicodeError: a charset of the form
        raise HTTPException(422, f"the form cannot be parsed: {error}") from None
    except TimeoutError:
        raise HTTPException(
            408, f"the upload took longer than {_TIMEOUT:g} seconds, or came slower than {MIN_RATE // 1000} kB/s"
        ) from None
    except HTTPException:
        if "expect" not in request.headers:  # such a client reads no response before it has sent all
            await _drain(request)
        raise


async def _drain(request: Request) -> None:
    """Discards the rest of an upload: if the connection were closed now, the client would not get the response."""
    with suppress(ClientDisconnect, TimeoutError, RuntimeError):  # RuntimeError: all has been read
        async with asyncio.timeout(_DRAIN_TIMEOUT):
            async for _ in request.stream():
                pass


async def _extract_upload(form: FormData) -> Upload:
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise HTTPException(422, "the form has no file in the field 'file'")
    fields = {key: value for key, value in form.items() if isinstance(value, str)}
    return Upload(data=await file.read(), name=file.filename or "", fields=fields)
