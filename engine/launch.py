"""Devices, precisions and processes: Accelerate's launcher, and what a run may ask of this machine."""

import os
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from torch import nn

from ..pipelines.threads import own_cores
from .config import Device, Precision

T = TypeVar("T")


def make_accelerator(device: Device, precision: Precision) -> Accelerator:
    """The Accelerator of this process. Raises ValueError when the machine lacks what is asked for."""
    kind = resolve_device(device).type
    accelerator = Accelerator(
        cpu=kind == "cpu",
        mixed_precision=_MIXED[resolve_precision(precision, kind)],
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    # `accelerate config` may have asked for more, behind our back.
    if accelerator.gradient_accumulation_steps != 1:
        raise ValueError(
            f"Accelerate is configured to accumulate gradients over {accelerator.gradient_accumulation_steps} steps: "
            "configure 1 there, and use --train.accumulate"
        )
    if accelerator.distributed_type not in _SUPPORTED:
        raise ValueError(
            f"Accelerate is configured for {accelerator.distributed_type.value}, photochrom trains data-parallel only: "
            "configure multi-GPU or multi-CPU there"
        )
    return accelerator


def resolve_device(device: Device) -> torch.device:
    """The device that is meant; auto is the GPU if there is one. Raises ValueError when there is none."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU only"
        raise ValueError(
            f"device=cuda was asked for, and torch {torch.__version__}, built for {build}, sees no GPU: "
            "use device=cpu, or see 'photochrom doctor'"
        )
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def resolve_precision(precision: Precision, kind: str) -> Precision:
    """The precision that is meant on a device of that kind. Raises ValueError when it has none such."""
    if kind == "cpu":
        if precision == "fp16":
            raise ValueError("precision=fp16 needs a GPU: use fp32, or bf16, on a CPU")
        return "fp32" if precision == "auto" else precision
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and not has_bf16:
        raise ValueError(f"precision=bf16 is not in {torch.cuda.get_device_name()}'s hardware: use fp16")
    if precision == "auto":
        return "bf16" if has_bf16 else "fp16"
    return precision


def threads_per_process() -> int:
    """This process's share of the cores it may use, as divided by the launcher among the processes of this machine."""
    return max(1, own_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def is_first_process() -> bool:
    """Whether this is the one process, of all that a launcher started, that speaks and writes."""
    return bool(PartialState().is_main_process)


def share_buffers(module: nn.Module) -> None:
    """Gives every process the first one's buffers: after a step, each has the BatchNorm statistics of its own share."""
    if dist.is_initialized():
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def gather(rows: list[T]) -> list[T]:
    """The rows of all processes, in every process."""
    if not dist.is_initialized():
        return rows
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, rows)
    return [row for part in parts for row in part]


_SUPPORTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
_MIXED = {"bf16": "bf16", "fp16": "fp16", "fp32": "no"}
