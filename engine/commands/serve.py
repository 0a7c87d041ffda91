"""photochrom serve CHECKPOINT..."""

import errno
import signal
import socket
import sys
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import numpy as np

from ...pipelines.imaging.decode import MAX_PIXELS
from ..checkpoints.model_file import model_name
from ..configuration.config import Device
from ..configuration.parser import parse_options
from ..configuration.registry import import_plugin
from ..console import console
from ..distributed import resolve_device
from ..inference import load

INSTALL = "pip install fastapi python-multipart uvicorn"
_HERE = ("127.0.0.1", "localhost", "::1")
_GRACE = 5  # seconds that requests have to end when the server does


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Colorizes for a browser, and over HTTP for programs; what is uploaded is not kept.

    Args:
        checkpoints: Run folders, checkpoints or model.safetensors files, among which people choose.
        host: Address or name to listen at; 0.0.0.0 lets in whoever reaches this machine.
        port: Port to listen at; 0 takes a free one.
        size: Short side in pixels at which the networks see a picture if nothing else is asked for; by default that of
            their training.
        max_megabytes: Larger files are refused.
        max_megapixels: Larger pictures are refused.
        device: auto, cuda or cpu.
        plugin: Python module to import first, when a model is one of your own.
    """

    checkpoints: list[Path]
    host: str = "127.0.0.1"
    port: int = 8000
    size: int | None = None
    max_megabytes: float = 32
    max_megapixels: float = 50
    device: Device = "auto"
    plugin: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"--port {self.port} is not from 0 to 65535")
        if self.size is not None and self.size < 8:
            raise ValueError(f"--size {self.size} is below 8, the network's stride")
        if not self.max_megabytes > 0:
            raise ValueError(f"--max-megabytes {self.max_megabytes:g} is not positive: nothing could be sent")
        if not 0 < self.max_megapixels * 1e6 <= MAX_PIXELS:
            raise ValueError(
                f"--max-megapixels {self.max_megapixels:g} is not above 0 and up to {MAX_PIXELS / 1e6:g}, the most "
                "that is decoded"
            )


def main(argv: list[str]) -> int:
    config = parse_options(ServeConfig, argv, prog="photochrom serve", positional=("checkpoints",))
    try:
        import uvicorn

        from ..serving.requests import ServedModel
        from ..serving.server import Limits, Server
    except ImportError as error:
        raise ImportError(f"serve needs what is not installed ({error}): {INSTALL}") from None
    device = resolve_device(config.device)
    import_plugin(config.plugin)
    with _bound(config.host, config.port) as listener:
        models = [load(path, device) for path in config.checkpoints]
        for model in models:  # what cannot predict fails now, and what is to be compiled is
            model.colorize(np.zeros((64, 64, 3), np.uint8))
        served = [
            ServedModel(name=name, model=model, size=config.size or model.metadata.size)
            for name, model in zip(_names(config.checkpoints), models, strict=True)
        ]
        limits = Limits(max_bytes=int(config.max_megabytes * 1e6), max_pixels=int(config.max_megapixels * 1e6))
        server = Server(served, device, limits, names=(config.host.lower(),))
        settings = uvicorn.Config(
            server.app, log_level="error", access_log=False, server_header=False, timeout_graceful_shutdown=_GRACE
        )
        listener.listen()
        _say(config.host, listener.getsockname()[1], [model.name for model in served])
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # what uvicorn hands on when it is done: no fault
        try:
            uvicorn.Server(settings).run([listener])
        finally:
            server.close()
    return 0


def _bound(host: str, port: int) -> socket.socket:
    """A socket that has the address, and does not listen yet. Raises ValueError when it cannot have it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        way = "name another with --port, or 0 for a free one" if taken else "name another with --host or --port"
        raise ValueError(f"cannot listen at {host}, port {port} ({error.strerror}): {way}") from None
    return listener


def _names(checkpoints: list[Path]) -> list[str]:
    """A name for each checkpoint, its run's, all different."""
    names: list[str] = []
    for name in map(model_name, checkpoints):
        names.append(next(other for other in chain([name], (f"{name}-{n}" for n in count(2))) if other not in names))
    return names


def _say(host: str, port: int, models: list[str]) -> None:
    everywhere = host in ("0.0.0.0", "::")
    name = socket.gethostname() if everywhere else f"[{host}]" if ":" in host else host
    print(f"http://{name}:{port}  {', '.join(models)}; Ctrl-C ends it", flush=True)
    if host not in _HERE:
        console.print("whoever reaches this machine can use it: there are no passwords, and no encryption")
