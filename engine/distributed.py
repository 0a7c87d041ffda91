"""Devices, precisions and processes, by Accelerate."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Timer
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
    broadcast_object_list,
)
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import get_error_handler
from torch.utils._triton import has_triton

from ..pipelines.system import available_cpus, processor_name
from .configuration.config import Device, Precision, TrainConfig
from .console import console, plural

T = TypeVar("T")

_C_COMPILERS = (os.environ.get("CC", "cc"), "gcc", "clang")  # those that Triton looks for
_LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_TIMEOUT = 600  # seconds that a process waits for another
_SUPPORTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
_MIXED_PRECISION = {"bf16": "bf16", "fp16": "fp16", "fp32": "no"}


def make_training_accelerator(train: TrainConfig) -> Accelerator:
    """Returns an Accelerator for training. Raises ValueError when the machine lacks something that `train` asks for."""
    if train.sync_batchnorm and resolve_device(train.device).type == "cpu":
        raise ValueError("train.sync_batchnorm=true needs GPUs: torch has no SyncBatchNorm for CPUs")
    if train.grad_compression == "bf16" and resolve_device(train.device).type == "cpu":
        raise ValueError("train.grad_compression=bf16 needs GPUs, where NCCL reduces it: use fp16 or none")
    # No static_graph: DistributedDataParallel does not find the tensors inside a ColorPrediction, and would silently
    # leave the first gradients of each process as they are.
    accelerator = make_accelerator(
        train.device,
        train.precision,
        timeout=train.timeout,
        comm_hook=DDPCommunicationHookType({"none": "no"}.get(train.grad_compression, train.grad_compression)),
    )
    if accelerator.device.type == "cuda":
        _set_fast_kernels(True)
    return accelerator


def describe_machine(accelerator: Accelerator) -> str:
    """Returns what the processes compute on: '4 x NVIDIA H200', or the processor with its number of cores."""
    device, number = accelerator.device, accelerator.num_processes
    one = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{processor_name()} ({plural(available_cpus(), 'core')})"
    )
    return f"{number} x {one}" if number > 1 else one


def make_accelerator(device: Device, precision: Precision, *, timeout: int = _TIMEOUT, **parallel: Any) -> Accelerator:
    """Returns an Accelerator for this process, whatever device and precision an earlier one had.

    `parallel` holds settings of DistributedDataParallel, `timeout` is in seconds. Raises ValueError when the machine
    lacks the device or the precision.
    """
    device_type = resolve_device(device).type
    mixed_precision = _MIXED_PRECISION[resolve_precision(precision, device_type)]
    # Accelerate keeps one state per process, and refuses another precision or device. A notebook that trains in bf16
    # and then evaluates in fp32 needs both, one after the other.
    AcceleratorState._reset_state(reset_partial_state=True)
    with _explaining_launch(timeout):
        accelerator = Accelerator(
            cpu=device_type == "cpu",
            mixed_precision=mixed_precision,
            kwargs_handlers=[
                DistributedDataParallelKwargs(gradient_as_bucket_view=True, **parallel),
                InitProcessGroupKwargs(timeout=timedelta(seconds=timeout)),
            ],
        )
    if device_type == "cuda":
        _set_fast_kernels(False)
    # `accelerate config` and `accelerate launch` can set more than a run supports.
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


@contextmanager
def _explaining_launch(timeout: int) -> Iterator[None]:
    """Raises ValueError with one sentence when the processes of a launcher cannot meet, or there is no launcher.

    After `timeout` seconds, this process ends with the sentence: torch waits so long in each of several stages.
    """
    given = ", ".join(f"{name}={os.environ[name]}" for name in _LAUNCHER_VARIABLES if name in os.environ)
    lost = ValueError(f"the other processes ({given}) cannot be reached in {timeout} s: start again")
    timer = Timer(timeout, _leave, [lost])
    timer.daemon = True
    if given:
        timer.start()
    try:
        num_local_processes()
        yield
    except (ValueError, dist.DistError) as error:
        if not given:
            raise
        if isinstance(error, dist.DistError):
            raise lost from None
        raise ValueError(
            f"{given} in the environment is what a launcher of several processes sets, and there is none ({error}): "
            "start by torchrun or accelerate launch, or unset these"
        ) from None
    finally:
        timer.cancel()


def _leave(error: ValueError) -> None:
    """Ends this process from a thread, while the main one waits in C++; torchrun's report has the error, too."""
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        get_error_handler().record_exception(error)
    console.print(f"photochrom: {error}")
    os._exit(1)


def _set_fast_kernels(fast: bool) -> None:
    """Switches TF32 of convolutions, and the search for the fastest ones of batches of one size, on or off.

    Matrix products stay in full precision: colours are upsampled by them, which TF32 would round to 10 bits.
    """
    torch.backends.cudnn.benchmark = fast
    torch.backends.cudnn.allow_tf32 = fast
    torch.set_float32_matmul_precision("highest")


def resolve_device(device: Device) -> torch.device:
    """Returns the torch device; auto is the GPU if there is one. Raises ValueError for a GPU that is not there."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU only"
        raise ValueError(
            f"device=cuda needs a GPU, and torch {torch.__version__}, built for {build}, sees none: "
            "use device=cpu, or see 'photochrom doctor'"
        )
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def resolve_precision(precision: Precision, device_type: str) -> Precision:
    """Returns the precision to use on a device of that type. Raises ValueError when it does not have it."""
    if device_type == "cpu":
        if precision == "fp16":
            raise ValueError("precision=fp16 needs a GPU: use fp32 or bf16 on a CPU")
        return precision if precision != "auto" else "bf16" if _has_bf16() else "fp32"
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and not has_bf16:
        raise ValueError(f"precision=bf16 needs a GPU with bf16, and {torch.cuda.get_device_name()} has none: use fp16")
    if precision == "auto":
        return "bf16" if has_bf16 else "fp16"
    return precision


def _has_bf16() -> bool:
    """True for a CPU that multiplies bf16 in hardware; other CPUs emulate it, slower than fp32."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def resolve_compile(train: TrainConfig, device: torch.device) -> str:
    """Returns the mode of torch.compile, or off."""
    if train.compile != "auto":
        return train.compile
    can_compile = device.type == "cuda" and has_triton() and any(map(shutil.which, _C_COMPILERS))
    return "default" if can_compile and not train.activation_checkpointing else "off"


def threads_per_process() -> int:
    """Returns this process's share of its launcher's cores, but no more than the cores it is bound to.

    A launcher that binds processes to cores is not bound itself.
    """
    num_local = num_local_processes()
    if num_local == 1 or not hasattr(os, "sched_getaffinity"):
        return max(1, available_cpus() // num_local)
    return max(1, min(available_cpus(), len(os.sched_getaffinity(os.getppid())) // num_local))


def num_local_processes() -> int:
    """Returns the number of processes that the launcher has started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def is_first_process() -> bool:
    """True for the main process, the only one that prints and writes."""
    return bool(PartialState().is_main_process)


def end_processes() -> None:
    """Destroys the process group at the end of a command; a script can call several verbs in the same group.

    A new group in the same processes would read the addresses of the old one from torchrun's store, and hang.
    """
    PartialState().destroy_process_group()


@contextmanager
def ending_processes_on_error() -> Iterator[None]:
    """Destroys a process group of gloo when a command fails, because its threads can abort the process at its end.

    A group of NCCL is not destroyed, because that waits for the other processes.
    """
    try:
        yield
    except (ValueError, OSError, SystemExit):
        if dist.is_initialized() and dist.get_backend() == "gloo":
            dist.destroy_process_group()
        raise


def broadcast_buffers(module: nn.Module) -> None:
    """Copies rank 0's buffers to all ranks: after a step, each has the BatchNorm statistics of its own share."""
    if dist.is_initialized():
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def all_reduce_max(value: int, device: torch.device) -> int:
    """Returns the largest value of all processes, and waits for all of them."""
    if not dist.is_initialized():
        return value
    largest = torch.full((), value, device=device)  # torch.tensor(value) would wait, too
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)  # the host waits here


def call_on_main_process(function: Callable[[], T]) -> T:
    """Returns in every process what the function returns in the main one.

    Where it raises ValueError or OSError, all processes end: the main one by the error, and the others by SystemExit.
    """
    result: Any = None
    error: Exception | None = None
    if is_first_process():
        try:
            result = function()
        except (ValueError, OSError) as refusal:
            error = refusal
    result, failed = broadcast_object_list([result, error is not None])
    if error:
        raise error
    if failed:
        raise SystemExit(1)  # one process says why
    returned: T = result
    return returned


def gather(rows: list[T]) -> list[T]:
    """Returns the rows of all processes, in every process."""
    if not dist.is_initialized():
        return rows
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, rows)
    return [row for part in parts for row in part]
