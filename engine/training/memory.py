"""Estimates the memory that a training step needs, before the first one."""

from copy import deepcopy

import torch
from accelerate import Accelerator
from torch import Tensor

from ...losses import ColorLoss
from ...models import Colorizer
from ...pipelines import LabBatch
from ...pipelines.loading.synthetic_loader import random_lab
from ...pipelines.system import available_memory
from ..configuration.config import RunConfig
from ..distributed import all_reduce_max, num_local_processes, resolve_compile

_WEIGHT_COPIES = 4  # the weights, their gradients and Adam's two moments
_MARGIN = 1.6  # measured on a CPU: a step takes 0.95 to 1.6 times the estimate


def check_memory(config: RunConfig, colorizer: Colorizer, loss: ColorLoss, accelerator: Accelerator) -> None:
    """Raises ValueError when a step needs more memory than is free, with a batch size that fits.

    The estimate is too low for networks with activation checkpointing, and half of it is taken with torch.compile.
    """
    train, device = config.train, accelerator.device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory() // num_local_processes()
    free = -all_reduce_max(-free, device)  # all processes must decide alike
    weights = sum(parameter.nbytes for parameter in colorizer.parameters())
    fixed = (_WEIGHT_COPIES + bool(train.ema)) * weights
    with accelerator.autocast():
        per_image = bytes_per_image(colorizer.to(device), loss.to(device), config.data.size, device)
    if resolve_compile(train, device) != "off":
        per_image //= 2
    batches = 3 * 4 * config.data.size**2 * (config.loader.prefetch_batches + 1) * train.grad_accum_steps
    num_parts = accelerator.num_processes * train.grad_accum_steps
    needed = fixed + train.batch_size // num_parts * (per_image + batches)
    if needed > free:
        fitting = num_parts * max(0, int((free - fixed) / _MARGIN) // (per_image + batches))
        advice = f"try {fitting}, or raise" if fitting else "use a smaller network or data.size, or raise"
        whose = "the GPU" if device.type == "cuda" else "this machine"
        share = " for each process" if accelerator.num_processes > 1 else ""
        raise ValueError(
            f"train.batch_size={train.batch_size} needs about {needed / 1e9:,.1f} GB of memory for a step, and {whose} "
            f"has {free / 1e9:,.1f} GB free{share}: {advice} --train.grad_accum_steps"
        )


def bytes_per_image(colorizer: Colorizer, loss: ColorLoss, size: int, device: torch.device) -> int:
    """Returns what the forward pass keeps of a photograph for the backward pass, and two of the largest gradients."""
    model, loss, number = deepcopy(colorizer).train(), deepcopy(loss).train(), 2
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.shape[:1] == (number,):  # neither weights nor their copies in bf16
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    L, ab = (channels.to(device) for channels in random_lab(number, size, seed=0))
    batch = LabBatch(L=L, ab=ab, index=torch.arange(number))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = loss(model(L), batch)
    del output  # only now: the addresses of what is kept are distinct
    return (sum(kept.values()) + 2 * max(kept.values(), default=0)) // number
