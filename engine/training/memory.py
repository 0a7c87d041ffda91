"""Estimates the memory that a training step needs, before the first one."""

import copy

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.func import functional_call

from ...losses import ColorLoss
from ...models import Colorizer
from ...pipelines import LabBatch
from ...pipelines.loading.synthetic_loader import random_lab
from ...pipelines.system import available_memory, is_out_of_memory
from ..configuration.config import RunConfig
from ..distributed import all_reduce_max, num_local_processes, resolve_compile

# For the batch size that is named instead: a step takes up to 2.2 times the estimate, and Adam four times the weights.
_MARGIN, _WEIGHT_COPIES = 2.2, 4
_COMPILED = 3  # torch.compile recomputes what is cheap; the share that it keeps differs, so the estimate is low


def check_memory(config: RunConfig, colorizer: Colorizer, loss: ColorLoss, accelerator: Accelerator) -> None:
    """Raises ValueError when a step needs more memory than is free, with a batch size that fits.

    The estimate is what a step takes at the least: a batch that might fit is not refused.
    """
    train, device = config.train, accelerator.device
    free = -all_reduce_max(-_free_memory(device), device)  # all processes must decide alike
    weights = sum(parameter.nbytes for parameter in colorizer.parameters())
    colorizer.activation_checkpointing = train.activation_checkpointing
    try:
        with accelerator.autocast():
            per_image = bytes_per_image(colorizer.to(device), loss.to(device), config.data.size, device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return  # of two images: a step of one may still fit
    if resolve_compile(train, device) != "off":
        per_image //= _COMPILED
    num_parts = accelerator.num_processes * train.grad_accum_steps
    needed = weights + train.batch_size // num_parts * per_image
    if needed > free:
        fitting = num_parts * max(0, int((free - _WEIGHT_COPIES * weights) / _MARGIN) // max(1, per_image))
        advice = f"try {fitting}, or raise" if fitting else "use a smaller network or data.size, or raise"
        whose = "the GPU" if device.type == "cuda" else "this machine"
        share = " for each process" if accelerator.num_processes > 1 else ""
        raise ValueError(
            f"train.batch_size={train.batch_size} needs at least {needed / 1e9:,.1f} GB of memory for a step, and "
            f"{whose} has {free / 1e9:,.1f} GB free{share}: {advice} --train.grad_accum_steps"
        )


def _free_memory(device: torch.device) -> int:
    """Returns the bytes that this process can still take; on a GPU, also those that torch holds for reuse."""
    if device.type != "cuda":
        return available_memory() // num_local_processes()
    reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + reusable


def bytes_per_image(colorizer: Colorizer, loss: ColorLoss, size: int, device: torch.device) -> int:
    """Returns what the forward pass keeps of a photograph for the backward pass; both modules stay as they are."""
    number, kept = 2, dict[int, int]()

    def keep(tensor: Tensor) -> Tensor:
        if tensor.shape[:1] == (number,):  # neither weights nor their copies in bf16
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    L, ab = random_lab(number, size, seed=0, device=device)
    batch = LabBatch(L=L, ab=ab, index=torch.arange(number))
    buffers = {name: buffer.clone() for name, buffer in colorizer.named_buffers()}
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
    ):
        output = copy.deepcopy(loss)(functional_call(colorizer, buffers, (L,)), batch)
    del output  # only now: the addresses of what is kept are distinct
    return sum(kept.values()) // number
