"""photochrom serve [--model MODEL...]"""

import errno
import re
import signal
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...pipelines.imaging.decode import MAX_PIXELS
from ...pipelines.ranges import check_ranges
from ..colorization.config import INPUT_SIDE
from ..configuration.config import Device
from ..configuration.parser import parse_options
from ..console import console, say

if TYPE_CHECKING:
    import torch

    from ..inference import TrainedColorizer

INSTALL = "pip install fastapi python-multipart uvicorn"
_LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
_ANY_HOST = ("0.0.0.0", "::")


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Serves models on a web page and over HTTP; uploads are not stored.

    Args:
        model: Run folders, checkpoints, model.safetensors files, or shipped models by name. Default: small-l2.
        host: Address or name to listen on; 0.0.0.0 for every network interface.
        port: Port to listen on; 0 for a free one.
        allow_host: Names by which browsers reach the server through a container or a proxy, such as nas.lan or
            *.example.org for all subdomains.
        size: Default short side of the networks' input in pixels. Default: the size of each network's training.
        max_megabytes: Limit of a file.
        max_megapixels: Limit of an image.
        device: auto, cuda or cpu.
        plugin: Python module to import first, for a model class of your own.
    """

    model: list[Path] = field(default_factory=list)
    host: str = "127.0.0.1"
    port: int = 8000
    allow_host: list[str] = field(default_factory=list)
    size: int | None = None
    max_megabytes: float = 32
    max_megapixels: float = 50
    device: Device = "auto"
    plugin: str | None = None

    def __post_init__(self) -> None:
        check_ranges(self, port=(0, 65535), max_megabytes=(1e-3, 1e6), size=INPUT_SIDE)
        for name in self.allow_host:
            if not re.fullmatch(r"(\*\.)?[\w-]+(\.[\w-]+)*\.?", name, re.ASCII):
                raise ValueError(f"--allow-host {name!r} is not a name, such as nas.lan or *.example.org")
        if not 0 < self.max_megapixels * 1e6 <= MAX_PIXELS:
            raise ValueError(
                f"--max-megapixels {self.max_megapixels:g} is not above 0 and up to {MAX_PIXELS / 1e6:g}, the limit of "
                "the decoder"
            )


def main(argv: list[str]) -> int:
    config = parse_options(ServeConfig, argv, prog="photochrom serve")
    try:
        from ..serving.app import ColorizeApp
        from ..serving.connections import Server
        from ..serving.requests import ServedModel
    except ImportError as error:
        raise ImportError(f"serve needs a package that is not installed ({error}): {INSTALL}") from None
    from ..distributed import resolve_device

    device = resolve_device(config.device)
    with _bind(config.host, config.port) as listener:
        served = [
            ServedModel(name=name, model=model, size=config.size or model.metadata.size)
            for name, model in _load_models(config, device).items()
        ]
        app = ColorizeApp(
            served,
            device,
            max_bytes=int(config.max_megabytes * 1e6),
            max_pixels=int(config.max_megapixels * 1e6),
            host=config.host,
            allowed_hosts=config.allow_host,
        )
        listener.listen()
        _print_address(config.host, listener.getsockname()[1], [model.name for model in served])
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises the signal again after its shutdown
        try:
            Server(app.app).run([listener])
        finally:
            app.close()
    return 0


def _load_models(config: ServeConfig, device: "torch.device") -> dict[str, "TrainedColorizer"]:
    """Loads the models; their names get -2, -3 ... appended where they repeat."""
    from ..checkpoints.model_file import model_name, unique_name
    from ..checkpoints.pretrained import default_model
    from ..configuration.registry import import_plugin
    from ..inference import load

    import_plugin(config.plugin)
    models: dict[str, TrainedColorizer] = {}
    for path in config.model or [default_model()]:
        model = load(path, device)
        model.colorize(np.zeros((64, 64, 3), np.uint8))  # fails early, and compiles what the first use compiles
        models[unique_name(model_name(path), models)] = model
    return models


def _bind(host: str, port: int) -> socket.socket:
    """Returns a socket bound to the address, not yet listening. Raises ValueError when it cannot be bound."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        is_taken = error.errno == errno.EADDRINUSE
        hint = "choose another with --port, or 0 for a free one" if is_taken else "choose another with --host or --port"
        raise ValueError(f"cannot listen on {host}, port {port} ({error.strerror}): {hint}") from None
    return listener


def _print_address(host: str, port: int, models: list[str]) -> None:
    name = socket.gethostname() if host in _ANY_HOST else f"[{host}]" if ":" in host else host
    say(f"http://{name}:{port}  {', '.join(models)}; press Ctrl-C to stop")
    if host not in _LOCAL_HOSTS:
        console.print("anyone who can reach this machine can use the server: it has no passwords and no encryption")
