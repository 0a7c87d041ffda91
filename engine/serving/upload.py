"""Reads uploads into memory, up to a limit, and never to disk."""

import asyncio
import logging
import sys
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass

import python_multipart  # noqa: F401  fails now if missing; Starlette imports it with the first form
from fastapi import HTTPException
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

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


class _TooLarge(Exception):
    pass


async def read_upload(request: Request, limit: int) -> Upload:
    """Reads a form with a file of at most `limit` bytes. Raises HTTPException with 408, 413, 415 or 422."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise HTTPException(415, "send the image as the field 'file' of a multipart/form-data form")
    stream = request.stream()
    try:
        async with asyncio.timeout(_TIMEOUT):
            if int(request.headers.get("content-length", 0)) > limit + _MAX_FORM_BYTES:
                raise _TooLarge
            body = _limit_size(stream, limit + _MAX_FORM_BYTES)
            form = await _InMemoryParser(request.headers, body, max_files=1, max_fields=8, max_part_size=1024).parse()
            return await _extract_upload(form, limit)
    except _TooLarge:
        if "expect" not in request.headers:  # such a client reads no response before it has sent all
            await _drain(stream)
        raise HTTPException(413, f"the file is larger than the limit of {limit / 1e6:g} MB") from None
    except MultiPartException as error:
        raise HTTPException(422, f"the form cannot be parsed: {error.message}") from None
    except TimeoutError:
        raise HTTPException(408, f"the upload took longer than {_TIMEOUT:g} seconds") from None


async def _limit_size(stream: AsyncGenerator[bytes], limit: int) -> AsyncGenerator[bytes]:
    size = 0
    async for chunk in stream:
        size += len(chunk)
        if size > limit:
            raise _TooLarge
        yield chunk


async def _drain(stream: AsyncGenerator[bytes]) -> None:
    """Discards the rest of an upload: if the connection were closed now, the client would not get the response."""
    with suppress(ClientDisconnect, TimeoutError):
        async with asyncio.timeout(_DRAIN_TIMEOUT):
            async for _ in stream:
                pass


async def _extract_upload(form: FormData, limit: int) -> Upload:
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise HTTPException(422, "the form has no file in the field 'file'")
    data = await file.read()
    if len(data) > limit:
        raise _TooLarge
    fields = {key: value for key, value in form.items() if isinstance(value, str)}
    return Upload(data=data, name=file.filename or "", fields=fields)
