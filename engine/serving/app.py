"""The web application that serves trained models: a page for people, an HTTP API for programs."""

import asyncio
import base64
import hashlib
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources import files
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import torch
from fastapi import FastAPI, HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from ... import __version__
from ...pipelines.imaging.decode import DecodedImage, Rejected
from ...pipelines.packing.worker_pool import TaskFailure
from ...pipelines.system import is_out_of_memory
from .batching import MAX_INPUT_PIXELS, InferenceRequest, input_pixels
from .decoding import DecodeResult, DecodeTask, ImageHeader, run_task
from .lane import Lane
from .memory_limiter import release_memory
from .origin_check import OriginCheck
from .requests import (
    ColorizeRequest,
    ServedModel,
    check_image,
    content_disposition,
    decoding_error,
    encode_image,
    parse_request,
)
from .upload import Upload, UploadMemory, busy, read_upload

_MAX_REQUESTS = 64  # at once, from their last byte
_MAX_UPLOADS = 16  # in memory, of the largest size
# An image is large if it, or the network's input, has more than these parts of the most pixels allowed.
_LARGE_IMAGE, _LARGE_INPUT = 1 / 8, 1 / 4
_RELEASE_SECONDS = 1.0  # after a large image, until its memory goes back to the system
_DECODE_SECONDS = 10.0  # a task that hangs is tried twice


class ColorizeApp:
    """The ASGI application `app`, with its decoder processes and the thread of the networks.

    Uploads have at most `max_bytes`, and their images at most `max_pixels`.
    """

    def __init__(
        self,
        models: list[ServedModel],
        device: torch.device,
        *,
        max_bytes: int,
        max_pixels: int,
        host: str = "localhost",
        allowed_hosts: Sequence[str] = (),
        decode_seconds: float = _DECODE_SECONDS,
        decode: Callable[[DecodeTask], DecodeResult] = run_task,
    ) -> None:
        self._models = {served.name: served for served in models}
        self._max_bytes, self._max_pixels = max_bytes, max_pixels
        self._slots = asyncio.Semaphore(_MAX_REQUESTS)
        self._uploads = UploadMemory(_MAX_UPLOADS * max_bytes)
        lane = partial(Lane, {served.name: served.model for served in models}, device, decode, decode_seconds)
        self._small = lane(num_decoders=2, max_pixels=max_pixels // 2)
        self._large = lane(num_decoders=1, max_pixels=max_pixels)
        self._page, self._page_policy = _load_page()
        self.app = OriginCheck(self._make_app(), host, allowed_hosts)

    def close(self) -> None:
        """Ends the decoder processes and the threads."""
        self._small.close()
        self._large.close()

    def _make_app(self) -> FastAPI:
        # No docs_url: FastAPI's documentation pages load scripts from other sites.
        app = FastAPI(title="Photochrom", version=__version__, docs_url=None, redoc_url=None)
        app.get("/", include_in_schema=False)(self.page)
        app.get("/healthz", summary="Health check")(self.health)
        app.get("/models", summary="Models and limits")(self.models)
        app.post(
            "/colorize",
            summary="Colorize an image",
            response_class=Response,
            responses=_RESPONSES,
            openapi_extra=_form_schema(list(self._models)),
        )(self.colorize)
        app.exception_handler(Exception)(_internal_error)
        return app

    async def page(self) -> HTMLResponse:
        return HTMLResponse(self._page, headers={"Content-Security-Policy": self._page_policy})

    async def health(self) -> dict[str, str]:
        return {"status": "ok"}

    async def models(self) -> dict[str, Any]:
        models = [
            {
                "name": served.name,
                "size": served.size,
                "head": served.model.head,
                "loss": served.model.metadata.loss.class_path,
                "step": served.model.metadata.step,
            }
            for served in self._models.values()
        ]
        limits = {"bytes": self._max_bytes, "pixels": self._max_pixels, "network_pixels": MAX_INPUT_PIXELS}
        return {"models": models, "limits": limits, "version": __version__}

    async def colorize(self, request: Request) -> Response:
        """Returns the image in the model's colours with its own lightness, at full resolution, in 8-bit sRGB.

        Metadata is not kept. `X-Photochrom-Clipped` is the share of pixels whose chroma was reduced because sRGB cannot
        show the predicted colour, `X-Photochrom-Changes` lists what was changed to decode the image, and
        `Server-Timing` has the time of each step in milliseconds.
        """
        try:
            with self._uploads.hold() as take:
                upload = await read_upload(request, self._max_bytes, take)
                options = parse_request(upload.fields, request.headers.get("accept", ""), self._models)
                if self._slots.locked():
                    raise busy()
                async with self._slots:
                    return await self._respond(request, upload, options)
        except (ClientDisconnect, asyncio.CancelledError):  # the latter when the server ends
            return Response(status_code=400)  # nobody receives it
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise HTTPException(503, "the memory is full: choose a smaller size") from None

    async def _respond(self, request: Request, upload: Upload, options: ColorizeRequest) -> Response:
        times = {"start": time.perf_counter()}
        header = await _decode(self._small, DecodeTask(data=upload.data, header_only=True))
        assert isinstance(header, ImageHeader)
        check_image(header, options.size, self._max_pixels)
        lane = self._lane(header, options.size)
        output_format = options.output_format or ("jpeg" if header.format in ("JPEG", "MPO") else "png")
        async with lane.memory.hold(header.width * header.height):
            times["wait"] = time.perf_counter()
            if await request.is_disconnected():
                raise ClientDisconnect
            image = await _decode(lane, DecodeTask(data=upload.data))
            assert isinstance(image, DecodedImage)
            times["decode"] = time.perf_counter()
            inference = InferenceRequest(model=options.served.name, pixels=image.pixels, size=options.size)
            colorized = await asyncio.wrap_future(lane.batcher.submit(inference))
            times["network"] = time.perf_counter()
            body = await asyncio.to_thread(encode_image, colorized.pixels, output_format)
            times["encode"] = time.perf_counter()
        if lane is self._large:
            asyncio.get_running_loop().call_later(_RELEASE_SECONDS, release_memory)
        headers = {
            "Content-Disposition": content_disposition(upload.name, options.served.name, output_format),
            "Server-Timing": _server_timing(times),
            "X-Photochrom-Changes": ", ".join(image.changes),
            "X-Photochrom-Clipped": f"{colorized.clipped:.4f}",
            "X-Photochrom-Model": quote(options.served.name),  # headers are Latin-1
            "X-Photochrom-Size": str(options.size or "native"),
        }
        return Response(body, media_type=f"image/{output_format}", headers=headers)

    def _lane(self, header: ImageHeader, size: int | None) -> Lane:
        num_pixels, num_inputs = header.width * header.height, input_pixels((header.width, header.height), size)
        is_large = num_pixels > _LARGE_IMAGE * self._max_pixels or num_inputs > _LARGE_INPUT * MAX_INPUT_PIXELS
        return self._large if is_large else self._small


async def _decode(lane: Lane, task: DecodeTask) -> ImageHeader | DecodedImage:
    result = await asyncio.wrap_future(lane.decoders.submit(task))
    if isinstance(result, Rejected | TaskFailure):
        raise decoding_error(result)
    return result


def _server_timing(times: dict[str, float]) -> str:
    """Returns the header with the milliseconds of each step, from the times at which the steps ended."""
    pairs = pairwise(times.items())
    return ", ".join(f"{step};dur={1000 * (end - start):.1f}" for (_, start), (step, end) in pairs)


def _load_page() -> tuple[str, str]:
    """Returns the page, and the Content-Security-Policy that allows its own scripts and styles only."""
    html = files("photochrom.engine.serving.templates").joinpath("serve.html").read_text()
    hashes = {
        tag: " ".join(f"'sha256-{_digest(code)}'" for code in re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL))
        for tag in ("script", "style")
    }
    policy = {
        "default-src": "'none'",
        "script-src": hashes["script"],
        "style-src": hashes["style"],
        "img-src": "blob:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return html, "; ".join(f"{name} {value}" for name, value in policy.items())


def _digest(code: str) -> str:
    return base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()


async def _internal_error(request: Request, error: Exception) -> JSONResponse:
    """Returns the response to an unexpected exception; its traceback goes to the console."""
    return JSONResponse({"detail": f"internal error ({type(error).__name__}); see the server's console"}, 500)


def _form_schema(models: list[str]) -> dict[str, Any]:
    """Returns the OpenAPI schema of the form of `colorize`."""
    fields = {
        "file": {"type": "string", "format": "binary", "description": "The image."},
        "model": {"type": "string", "enum": models, "default": models[0]},
        "size": {
            "type": "string",
            "pattern": "^([0-9]+|native)$",
            "description": "Short side of the network's input in pixels; default: the size of its training.",
        },
        "format": {
            "type": "string",
            "enum": ["png", "jpeg"],
            "description": "Default: the format that Accept names, else jpeg for a JPEG and png for others.",
        },
    }
    schema = {"type": "object", "required": ["file"], "properties": fields}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


_ERROR = {"application/json": {"schema": {"type": "object", "properties": {"detail": {"type": "string"}}}}}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The colorized image.", "content": {"image/png": {}, "image/jpeg": {}}},
    **{status: {"content": _ERROR} for status in (403, 408, 413, 415, 422, 503)},
}
