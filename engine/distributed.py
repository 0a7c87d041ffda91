"""Devices, precisions and processes: Accelerate's launcher, and what a run may ask of this machine."""

import os
import shutil
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import (
    DDPCommunicationHookType,
    DistributedDataParallelKwargs,
    DistributedType,
    InitProcessGroupKwargs,
)
from torch import nn
from torch.utils._triton import has_triton

from ..pipelines.system import available_cpus
from .configuration.config import Device, Precision, TrainConfig

T = TypeVar("T")

_C_COMPILERS = (os.environ.get("CC", "cc"), "gcc", "clang")  # what Triton looks for
_TIMEOUT = 600  # seconds that a process waits for another


def make_trainer(train: TrainConfig) -> Accelerator:
    """The Accelerator of a process that trains. Raises ValueError when the machine lacks what is asked for."""
    if train.sync_batchnorm and resolve_device(train.device).type == "cpu":
        raise ValueError("train.sync_batchnorm=true needs GPUs: torch has no SyncBatchNorm for CPUs")
    if train.grad_compression == "bf16" and resolve_device(train.device).type == "cpu":
        raise ValueError("train.grad_compression=bf16 needs GPUs, which reduce it by NCCL: use fp16 or none")
    # No static_graph: DistributedDataParallel does not find the tensors within a ColorPrediction, and then, in silence,
    # leaves the first gradients of a process what they are.
    accelerator = make_accelerator(
        train.device,
        train.precision,
        timeout=train.timeout,
        comm_hook=DDPCommunicationHookType({"none": "no"}.get(train.grad_compression, train.grad_compression)),
    )
    if accelerator.device.type == "cuda":
        _set_fast_kernels(True)
    return accelerator


def make_accelerator(device: Device, precision: Precision, *, timeout: int = _TIMEOUT, **parallel: Any) -> Accelerator:
    """Returns an Accelerator for this process, whatever device and precision an earlier one had.

    `parallel` holds settings of DistributedDataParallel, `timeout` is in seconds. Raises ValueError when the machine
    lacks the device or the precision.
    """
    kind = resolve_device(device).type
    # Accelerate keeps one state per process, and refuses another precision or device. A notebook that trains in bf16
    # and then evaluates in fp32 needs both, one after the other.
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        cpu=kind == "cpu",
        mixed_precision=_MIXED[resolve_precision(precision, kind)],
        kwargs_handlers=[
            DistributedDataParallelKwargs(gradient_as_bucket_view=True, **parallel),
            InitProcessGroupKwargs(timeout=timedelta(seconds=timeout)),
        ],
    )
    if kind == "cuda":
        _set_fast_kernels(False)
    # `accelerate config` may have asked for more, behind our back.
    if accelerator.gradient_accumulation_steps != 1:
        raise ValueError(
            f"Accelerate is configured to accumulate gradients over {accelerator.gradient_accumulation_steps} steps: "
            "configure 1 there, and use --train.grad_accum_steps"
        )
    if accelerator.distributed_type not in _SUPPORTED:
        raise ValueError(
            f"Accelerate is configured for {accelerator.distributed_type.value}, photochrom trains data-parallel only: "
            "configure multi-GPU or multi-CPU there"
        )
    return accelerator


def _set_fast_kernels(fast: bool) -> None:
    """Switches TF32, and the search for the fastest convolutions of batches that all have one size, on or off."""
    torch.backends.cudnn.benchmark = fast
    torch.backends.cudnn.allow_tf32 = fast
    torch.set_float32_matmul_precision("high" if fast else "highest")


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
        return precision if precision != "auto" else "bf16" if _has_bf16() else "fp32"
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and not has_bf16:
        raise ValueError(f"precision=bf16 is not in {torch.cuda.get_device_name()}'s hardware: use fp16")
    if precision == "auto":
        return "bf16" if has_bf16 else "fp16"
    return precision


def _has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware: elsewhere it is emulated, and slower than fp32."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def resolve_compile(train: TrainConfig, device: torch.device) -> str:
    """The mode of torch.compile that is meant, or off."""
    if train.compile != "auto":
        return train.compile
    possible = device.type == "cuda" and has_triton() and any(map(shutil.which, _C_COMPILERS))
    return "default" if possible and not train.activation_checkpointing else "off"


def threads_per_process() -> int:
    """This process's share of the cores that its launcher may use, but no more than it may use itself.

    Launchers that bind processes to cores are not bound themselves.
    """
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if local == 1 or not hasattr(os, "sched_getaffinity"):
        return max(1, available_cpus() // local)
    return max(1, min(available_cpus(), len(os.sched_getaffinity(os.getppid())) // local))


def is_first_process() -> bool:
    """Whether this is the one process, of all that a launcher started, that speaks and writes."""
    return bool(PartialState().is_main_process)


def broadcast_buffers(module: nn.Module) -> None:
    """Gives every process the first one's buffers: after a step, each has the BatchNorm statistics of its own share."""
    if dist.is_initialized():
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def all_reduce_max(value: int, device: torch.device) -> int:
    """The largest value of any process; waits for all of them."""
    if not dist.is_initialized():
        return value
    largest = torch.tensor(value, device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def gather(rows: list[T]) -> list[T]:
    """The rows of all processes, in every process."""
    if not dist.is_initialized():
        return rows
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, rows)
    return [row for part in parts for row in part]


_SUPPORTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
_MIXED = {"bf16": "bf16", "fp16": "fp16", "fp32": "no"}
