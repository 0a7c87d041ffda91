"""Checks of this machine: packages, GPUs and decoders, by trying them."""

import io
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from .. import __version__
from ..pipelines.system import INSTALL_DALI, available_cpus

Verdict = Literal["ok", "note", "missing", "broken"]

_PACKAGES = (
    "torch",
    "kornia",
    "numba",
    "accelerate",
    "webdataset",
    "numpy",
    "scikit-image",
    "safetensors",
    "simplejpeg",
    "pillow",
)
_DALI = ("nvidia-dali-cuda130", "nvidia-dali-cuda120")


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of one check, with advice where something is wrong."""

    what: str
    verdict: Verdict
    found: str
    advice: str = ""


def run_checks() -> Iterator[Check]:
    """Checks all that training, evaluation and colorization need."""
    yield Check(what="photochrom", verdict="ok", found=f"{__version__} on Python {platform.python_version()}")
    capability = torch.backends.cpu.get_cpu_capability()
    yield Check(what="CPU", verdict="ok", found=f"{available_cpus()} of {os.cpu_count()} cores usable, {capability}")
    yield Check(what="disk", verdict="ok", found=f"{shutil.disk_usage('.').free / 1e9:.0f} GB free in this folder")
    yield from map(_package, _PACKAGES)
    yield from _gpus()
    yield from _dali()


def versions() -> dict[str, str]:
    """Returns the versions of Photochrom, Python and the libraries, to be stored with what they made."""
    checks = {name: _package(name) for name in (*_PACKAGES, *_DALI)}
    installed = {name: check.found for name, check in checks.items() if check.verdict == "ok"}
    return {"photochrom": __version__, "python": platform.python_version(), **installed}


def _package(name: str) -> Check:
    try:
        return Check(what=name, verdict="ok", found=version(name))
    except PackageNotFoundError:
        return Check(what=name, verdict="missing", found="not installed", advice=f"pip install {name}")


def _gpus() -> Iterator[Check]:
    if not torch.cuda.is_available():
        build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for the CPU only"
        advice = "" if torch.version.cuda else "with a GPU in this machine: install a CUDA build of torch"
        yield Check(what="GPU", verdict="note", found=f"none; torch is built {build}", advice=advice)
        return
    for number in range(torch.cuda.device_count()):
        yield _gpu(number)


def _gpu(number: int) -> Check:
    gpu = torch.cuda.get_device_properties(number)
    precisions = "bf16, fp16, fp32" if gpu.major >= 8 else "fp16, fp32"
    found = f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, compute {gpu.major}.{gpu.minor}, {precisions}"
    try:
        ones = torch.ones(64, 64, device=f"cuda:{number}")
        assert (ones @ ones).sum().item() == 64**3
    except RuntimeError as error:
        advice = "install a torch built for this GPU: V100 needs a CUDA 12.6 build"
        return Check(what=f"GPU {number}", verdict="broken", found=f"{found}: {_first_line(error)}", advice=advice)
    return Check(what=f"GPU {number}", verdict="ok", found=found)


def _dali() -> Iterator[Check]:
    installed = {name: number for name, number in versions().items() if name in _DALI}
    if not installed:
        yield Check(what="DALI", verdict="missing", found="not installed", advice=INSTALL_DALI)
        return
    yield Check(what="DALI", verdict="ok", found=", ".join(f"{name} {number}" for name, number in installed.items()))
    for device in ["cpu", "mixed"] if torch.cuda.is_available() else ["cpu"]:
        what = "JPEG on the CPU" if device == "cpu" else "JPEG on the GPU"
        try:
            _decode_with_dali(device)
        except Exception as error:  # any error of DALI is the result of this check
            yield Check(what=what, verdict="broken", found=_first_line(error), advice=INSTALL_DALI)
        else:
            yield Check(what=what, verdict="ok", found="decoded by DALI")


def _decode_with_dali(device: str) -> None:
    """Decodes a small JPEG and checks its pixels. Raises RuntimeError when they are wrong."""
    from nvidia.dali import Pipeline, fn

    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 100, 50)).save(buffer, "JPEG", quality=95, subsampling=0)
    data = np.frombuffer(buffer.getvalue(), np.uint8)
    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=0 if device == "mixed" else None)
    with pipeline:
        jpegs = fn.external_source(source=lambda: [data])
        pipeline.set_outputs(fn.decoders.image(jpegs, device=device))
    (images,) = pipeline.run()
    pixels: Any = np.asarray((images.as_cpu() if device == "mixed" else images).at(0))
    if pixels.shape != (48, 64, 3) or np.abs(pixels.mean(axis=(0, 1)) - (200, 100, 50)).max() > 2:
        raise RuntimeError(f"the decoded test picture is wrong: {pixels.shape} with a mean of {pixels.mean():.1f}")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
