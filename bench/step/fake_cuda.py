"""Lets Inductor schedule for an NVIDIA GPU on a machine without one, and without Triton or torch's CUDA build.

Tensors are fake: they have a shape and a device and no memory. torch asks the device for a few properties, which are
given here; what it would ask of cuDNN is answered as cuDNN does.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._inductor.runtime.hints import DeviceProperties

CUDA = torch.device("cuda", 0)


@contextmanager
def fake_cuda(*, capability: float, multiprocessors: int) -> Iterator[None]:
    """Pretends that there is a GPU of a compute capability. Raises ValueError where torch's internals are others."""
    major, minor = divmod(round(10 * capability), 10)
    properties = DeviceProperties("cuda", 0, multiprocessors, 10 * major + minor, major, 65536, 2048, 1024, 32)
    replacements = {
        "torch.cuda.is_available": lambda: True,
        "torch.cuda.device_count": lambda: 1,
        "torch.cuda.current_device": lambda: 0,
        "torch.cuda.get_device_capability": lambda device=None: (major, minor),
        "torch.cuda.get_device_properties": lambda device=None: SimpleNamespace(
            name="", total_memory=0, gcnArchName="", **properties._asdict()
        ),
        "torch._inductor.runtime.hints.DeviceProperties.create": lambda device: properties,
        "torch._inductor.scheduler.has_triton": lambda *device: True,
        "torch._inductor.fx_passes.reinplace._inplace_generalized_scatter": lambda target, source, views: target,
        "torch._C._conv_determine_backend_memory_format": _cudnn_memory_format,
    }
    with replaced(replacements):
        yield


@contextmanager
def replaced(replacements: dict[str, Any]) -> Iterator[None]:
    """Replaces attributes of torch by name. Raises ValueError for one that this version does not have."""
    with ExitStack() as stack:
        for name, value in replacements.items():
            try:
                stack.enter_context(patch(name, value))
            except AttributeError:
                raise ValueError(
                    f"--trace needs {name}, which torch {torch.__version__} does not have: trace with torch 2.13"
                ) from None
        yield


def _cudnn_memory_format(images: Tensor, weight: Tensor, backend: Any) -> torch.memory_format:
    """Returns the layout of a convolution's output: channels last if its input or its weight is."""
    suggested = (torch._prims_common.suggest_memory_format(tensor) for tensor in (images, weight))
    return torch.channels_last if torch.channels_last in suggested else torch.contiguous_format
