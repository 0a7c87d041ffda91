"""Trained models behind a web page, and over HTTP for programs."""

import asyncio
import base64
import hashlib
import re
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any
from urllib.parse import quote

import torch
from fastapi import FastAPI, HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from ... import __version__
from ...pipelines.imaging.decode import Rejected
from ...pipelines.packing.worker_pool import TaskFailure
from .batching import MAX_SEEN, Batcher, InferenceRequest
from .decoding import Answer, Decode, Decoded, Decoders, Measure, Measured, Task, answer
from .memory_limiter import MemoryLimiter
from .origin_check import OriginCheck
from .requests import ColorizeRequest, Kind, ServedModel, check_size, disposition, encoded, refusal, wish
from .upload import Upload, read_upload

_PLACES = 64  # requests at once, from their first byte on
_DECODERS = 2
_DECODE_SECONDS = 10.0  # twice: what hangs is tried again


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is refused: files of more bytes, pictures of more pixels."""

    max_bytes: int
    max_pixels: int


class Server:
    """The application, and the processes and the thread that work for it; `models` are offered in their order."""

    def __init__(
        self,
        models: list[ServedModel],
        device: torch.device,
        limits: Limits,
        *,
        names: tuple[str, ...] = (),
        decode_seconds: float = _DECODE_SECONDS,
        decode: Callable[[Task], Answer] = answer,
    ) -> None:
        self._models = {served.name: served for served in models}
        self._limits = limits
        self._places = _PLACES
        self._room = MemoryLimiter(2 * limits.max_pixels)
        self._decoders = Decoders(number=_DECODERS, seconds=decode_seconds, function=decode)
        self._batcher = Batcher({served.name: served.model for served in models}, device)
        self._page, self._policy = _page()
        self.app = OriginCheck(self._application(), names)

    def close(self) -> None:
        """Ends what works for it."""
        self._decoders.close()
        self._batcher.close()

    def _application(self) -> FastAPI:
        # Its pages of documentation load scripts from elsewhere; the schema itself is served.
        app = FastAPI(title="Photochrom", version=__version__, docs_url=None, redoc_url=None)
        app.get("/", include_in_schema=False)(self.page)
        app.get("/healthz", summary="Whether it works")(self.health)
        app.get("/models", summary="The models, and what is refused")(self.models)
        app.post(
            "/colorize",
            summary="A picture in colour",
            response_class=Response,
            responses=_RESPONSES,
            openapi_extra=_form_of(list(self._models)),
        )(self.colorize)
        app.exception_handler(Exception)(_our_fault)
        return app

    async def page(self) -> HTMLResponse:
        return HTMLResponse(self._page, headers={"Content-Security-Policy": self._policy})

    async def health(self) -> dict[str, str]:
        return {"status": "ok"}

    async def models(self) -> dict[str, Any]:
        return {
            "models": [
                {
                    "name": served.name,
                    "size": served.size,
                    "head": served.model.head,
                    "loss": served.model.metadata.loss.class_path,
                    "step": served.model.metadata.step,
                }
                for served in self._models.values()
            ],
            "limits": {
                "bytes": self._limits.max_bytes,
                "pixels": self._limits.max_pixels,
                "network_pixels": MAX_SEEN,
            },
            "version": __version__,
        }

    async def colorize(self, request: Request) -> Response:
        """The picture in the model's colours and its own lightness, at its full resolution, in 8 bits of sRGB.

        Its metadata is not kept. `X-Photochrom-Clipped` is the share of pixels whose predicted colour sRGB cannot show,
        and which have less of it; `X-Photochrom-Changes` says what was done to the picture to read it; `Server-Timing`
        where the time went, in milliseconds.
        """
        async with self._place():
            try:
                upload = await read_upload(request, self._limits.max_bytes)
                wanted = wish(upload.fields, request.headers.get("accept", ""), self._models)
                return await self._colored(request, upload, wanted)
            except ClientDisconnect:
                return Response(status_code=400)  # to nobody
            except torch.OutOfMemoryError:
                raise HTTPException(503, "the GPU's memory is full: ask for a smaller size") from None

    @asynccontextmanager
    async def _place(self) -> AsyncGenerator[None]:
        if not self._places:
            raise HTTPException(503, "there is too much to do: try again in a moment", {"Retry-After": "2"})
        self._places -= 1
        try:
            yield
        finally:
            self._places += 1

    async def _colored(self, request: Request, upload: Upload, wanted: ColorizeRequest) -> Response:
        clock = _Clock()
        measured = await self._decoded(Measure(data=upload.data))
        assert isinstance(measured, Measured)
        check_size(measured, wanted.size, self._limits.max_pixels)
        kind: Kind = wanted.kind or ("jpeg" if measured.kind in ("JPEG", "MPO") else "png")
        async with self._room.hold(measured.width * measured.height):
            clock.lap("wait")
            decoded = await self._decoded(Decode(data=upload.data))
            assert isinstance(decoded, Decoded)
            clock.lap("decode")
            if await request.is_disconnected():
                raise ClientDisconnect
            order = InferenceRequest(model=wanted.served.name, pixels=decoded.pixels, size=wanted.size)
            colored = await asyncio.wrap_future(self._batcher.submit(order))
            clock.lap("network")
            body = await asyncio.to_thread(encoded, colored.pixels, kind)
            clock.lap("encode")
        headers = {
            "Content-Disposition": disposition(upload.name, wanted.served.name, kind),
            "Server-Timing": clock.header(),
            "X-Photochrom-Changes": ", ".join(decoded.done),
            "X-Photochrom-Clipped": f"{colored.clipped:.4f}",
            "X-Photochrom-Model": quote(wanted.served.name),  # headers are Latin-1
            "X-Photochrom-Size": str(wanted.size or "native"),
        }
        return Response(body, media_type=f"image/{kind}", headers=headers)

    async def _decoded(self, task: Task) -> Measured | Decoded:
        found = await asyncio.wrap_future(self._decoders.submit(task))
        if isinstance(found, Rejected | TaskFailure):
            raise refusal(found)
        return found


@dataclass(kw_only=True)
class _Clock:
    """Where a request's time goes."""

    since: float = field(default_factory=time.perf_counter)
    laps: dict[str, float] = field(default_factory=dict)

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self.since = now - self.since, now

    def header(self) -> str:
        return ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in self.laps.items())


def _page() -> tuple[str, str]:
    """The page, and the policy that lets it run what is written in it and nothing else."""
    text = files("photochrom.engine.serving.templates").joinpath("serve.html").read_text()
    allowed = {
        tag: " ".join(f"'sha256-{_digest(code)}'" for code in re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL))
        for tag in ("script", "style")
    }
    policy = {
        "default-src": "'none'",
        "script-src": allowed["script"],
        "style-src": allowed["style"],
        "img-src": "blob:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return text, "; ".join(f"{name} {value}" for name, value in policy.items())


def _digest(code: str) -> str:
    return base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()


async def _our_fault(request: Request, error: Exception) -> JSONResponse:
    """The answer to what only a fault of ours can bring about; the traceback goes to the console."""
    return JSONResponse({"detail": f"the server has failed ({type(error).__name__}): its console says where"}, 500)


def _form_of(models: list[str]) -> dict[str, Any]:
    """The form that `colorize` takes, for OpenAPI."""
    fields = {
        "file": {"type": "string", "format": "binary", "description": "The picture."},
        "model": {"type": "string", "enum": models, "default": models[0]},
        "size": {
            "type": "string",
            "pattern": "^([0-9]+|native)$",
            "description": "Short side in pixels at which the network sees the picture; by default that of its "
            "training.",
        },
        "format": {
            "type": "string",
            "enum": ["png", "jpeg"],
            "description": "By default what Accept names, else jpeg for a JPEG and png for all else.",
        },
    }
    schema = {"type": "object", "required": ["file"], "properties": fields}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


_FAULT = {"application/json": {"schema": {"type": "object", "properties": {"detail": {"type": "string"}}}}}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The picture.", "content": {"image/png": {}, "image/jpeg": {}}},
    **{
        status: {"description": what, "content": _FAULT}
        for status, what in {
            403: "The request comes from another site's page, or asks for another host.",
            408: "The upload took too long.",
            413: "Too many bytes, or pixels.",
            415: "No form with a file, or no image.",
            422: "Damaged, too slow to decode, or a parameter that cannot be.",
            503: "Too much to do.",
        }.items()
    },
}
