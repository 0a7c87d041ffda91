"""Uploads, read into memory alone and no further than they may be long."""

import asyncio
import logging
import sys
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass

import python_multipart  # noqa: F401  which Starlette asks for only when a form arrives
from fastapi import HTTPException
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # who sends a broken form is told, nobody else

_FORM = 1 << 16  # bytes of a form around its file
_SECONDS = 60.0  # that an upload may take
_LINGER = 5.0  # seconds in which the rest of what is too long is taken in, and thrown away


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A file as it was sent, and the form's other fields."""

    data: bytes
    name: str
    fields: dict[str, str]


class _InMemory(MultiPartParser):
    spool_max_size = sys.maxsize  # bytes from which on a temporary file would be written


class _TooLong(Exception):
    pass


async def read_upload(request: Request, limit: int) -> Upload:
    """The form's file, of at most `limit` bytes. Raises HTTPException with 408, 413, 415 or 422."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise HTTPException(415, "send the picture as the field 'file' of a form, multipart/form-data")
    stream = request.stream()
    try:
        async with asyncio.timeout(_SECONDS):
            if int(request.headers.get("content-length", 0)) > limit + _FORM:
                raise _TooLong
            body = _limited(stream, limit + _FORM)
            form = await _InMemory(request.headers, body, max_files=1, max_fields=8, max_part_size=1024).parse()
            return await _upload(form, limit)
    except _TooLong:
        if "expect" not in request.headers:  # who does not ask first, sends all before reading an answer
            await _drain(stream)
        raise HTTPException(413, f"the file is larger than {limit / 1e6:g} MB, the most that is taken") from None
    except MultiPartException as error:
        raise HTTPException(422, f"the form cannot be read: {error.message}") from None
    except TimeoutError:
        raise HTTPException(408, f"the upload took longer than {_SECONDS:g} seconds") from None


async def _limited(stream: AsyncGenerator[bytes], limit: int) -> AsyncGenerator[bytes]:
    size = 0
    async for chunk in stream:
        size += len(chunk)
        if size > limit:
            raise _TooLong
        yield chunk


async def _drain(stream: AsyncGenerator[bytes]) -> None:
    """Takes in what is still sent: a connection that is closed meanwhile takes the answer with it."""
    with suppress(ClientDisconnect, TimeoutError):
        async with asyncio.timeout(_LINGER):
            async for _ in stream:
                pass


async def _upload(form: FormData, limit: int) -> Upload:
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise HTTPException(422, "the form has no file in its field 'file'")
    data = await file.read()
    if len(data) > limit:
        raise _TooLong
    fields = {key: value for key, value in form.items() if isinstance(value, str)}
    return Upload(data=data, name=file.filename or "", fields=fields)
