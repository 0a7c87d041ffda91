"""The training step: network, loss and optimizer on this process's device.

Nothing here makes the host wait for the device: the device decides whether gradients are finite, and a fused optimizer
(Adam, AdamW, SGD, Adagrad) skips the update where they are not. Other optimizers cannot: the host waits for the answer
before each of their updates.
"""

import math
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ...losses import ColorLoss
from ...models import Colorizer
from ...pipelines import LabBatch
from ...pipelines.loading.hashing import random_bits
from ...pipelines.structured import validated
from ..configuration.config import RunConfig
from ..configuration.registry import build_optimizer
from ..distributed import resolve_compile
from .ema import ModelEma
from .optimizer_state import OPTIMIZER, WEIGHTS, load_optimizer_state_dict, optimizer_state_dict

HALTED, NONFINITE, STOP = range(3)  # indices of the flags that train_step returns


class Trainer:
    """Trains `colorizer` in place.

    Args:
        colorizer: Network to train.
        loss: Loss to minimize.
        config: Configuration of the run.
        accelerator: Accelerator of this process.
    """

    def __init__(self, colorizer: Colorizer, loss: ColorLoss, config: RunConfig, accelerator: Accelerator) -> None:
        train, device = config.train, accelerator.device
        self.colorizer = colorizer
        self.loss = loss.to(device)
        self._accelerator = accelerator
        self._seed, self._grad_accum_steps = train.seed, train.grad_accum_steps
        self._max_grad_norm, self._max_nonfinite_steps = train.max_grad_norm, train.max_nonfinite_steps
        self._nonfinite_in_a_row = torch.zeros((), device=device)
        self._halted = torch.zeros((), dtype=torch.bool, device=device)  # too many of them: no more updates
        self._set_up_network(config)
        self.ema = ModelEma(colorizer, train.ema) if train.ema else None
        self.optimizer = build_optimizer(config.optim, colorizer.parameters())
        self.base_lr: float = self.optimizer.defaults["lr"]
        # With None for device_placement, Accelerate imports DTensor: half a second, to look for sharded parameters.
        self._model: nn.Module = accelerator.prepare_model(colorizer, device_placement=True)
        # Training reads no running statistics, those of rank 0 are the same without copies, and validation copies them.
        # Set here, since torch warns of the argument, and copies no buffers at the beginning with it.
        if isinstance(self._model, DistributedDataParallel):
            self._model.broadcast_buffers = False
        if self.ema:  # evaluated in the same precision
            accelerator.prepare_model(self.ema.module, device_placement=True, evaluation_mode=True)
        mode = resolve_compile(train, device)
        self._compiled = mode != "off"
        self._compute_loss = (
            torch.compile(self._micro_batch_loss, mode=mode) if self._compiled else self._micro_batch_loss
        )

    def _set_up_network(self, config: RunConfig) -> None:
        """Moves the network to the device and applies the settings that change how it is computed."""
        train, device, colorizer = config.train, self._accelerator.device, self.colorizer
        colorizer.to(device=device)
        prefers_channels_last = device.type == "cuda" or self._accelerator.mixed_precision == "bf16"
        if train.memory_format == "channels_last" or (train.memory_format == "auto" and prefers_channels_last):
            colorizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if train.sync_batchnorm:
            nn.SyncBatchNorm.convert_sync_batchnorm(colorizer)
        colorizer.activation_checkpointing = train.activation_checkpointing
        micro_batch_size = train.batch_size // (self._accelerator.num_processes * train.grad_accum_steps)
        with self._accelerator.autocast():
            shape = (micro_batch_size, 1, config.data.size, config.data.size)
            colorizer.autotune(100 * torch.rand(shape, device=device), compiled=resolve_compile(train, device) != "off")

    @property
    def eval_model(self) -> Colorizer:
        """The network to validate, to preview and to save: the averaged one if there is one."""
        return self.ema.module if self.ema else self.colorizer

    def train_step(self, batch: LabBatch, *, step: int, lr: float, stop: int = 0) -> tuple[dict[str, Tensor], Tensor]:
        """Takes one optimizer step on this process's share of a batch; returns its means and its flags.

        The means are over the share: of the loss, of its terms and of the gradient's norm. A skipped step has means of
        0, and `counted` 0 instead of 1. The flags (3,) are the same in all processes: HALTED, no step updates the
        weights any more; NONFINITE, this step was skipped; STOP, the largest `stop` of all processes.
        """
        # The random numbers of a step are a function of (seed, step, rank): a resumed run repeats them.
        torch.manual_seed(int(random_bits(self._seed, step, self._accelerator.process_index)[0] >> 1))
        self._model.train()
        self.loss.train()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        saved_buffers = [buffer.clone() for buffer in self.colorizer.buffers()] if self._max_nonfinite_steps else []
        means = self._backward(batch)
        flags = torch.stack([~means["loss"].isfinite(), torch.full_like(self._halted, stop, dtype=torch.float32)])
        if dist.is_initialized():
            dist.all_reduce(flags, dist.ReduceOp.MAX)
        means["grad_norm"], nonfinite = self._optimizer_step(flags[0] > 0)
        for buffer, saved in zip(self.colorizer.buffers(), saved_buffers, strict=False):
            buffer.copy_(torch.where(nonfinite, saved, buffer))
        if self.ema:
            self.ema.update(self.colorizer, step)
        self.optimizer.zero_grad(set_to_none=True)
        means = {name: torch.where(nonfinite, 0, value) for name, value in means.items()}
        return {**means, "counted": (~nonfinite).float()}, torch.stack([self._halted, nonfinite, flags[1]])

    def _backward(self, batch: LabBatch) -> dict[str, Tensor]:
        """Computes the gradients of the mean loss; returns the loss and its terms, detached."""
        means: dict[str, Tensor] = {}
        micro_batches = batch.split(self._grad_accum_steps)
        for micro_batch in micro_batches:
            if self._compiled:
                torch.compiler.cudagraph_mark_step_begin()
            # Processes exchange gradients once, with the last micro-batch.
            is_last = micro_batch is micro_batches[-1]
            with nullcontext() if is_last else self._accelerator.no_sync(self._model):
                total, terms = self._compute_loss(micro_batch)
                self._accelerator.backward(total / len(micro_batches))
            for name, value in {"loss": total, **terms}.items():
                means[name] = means.get(name, 0) + value.detach() / len(micro_batches)
        return means

    def _micro_batch_loss(self, micro_batch: LabBatch) -> tuple[Tensor, dict[str, Tensor]]:
        output = self.loss(self._model(micro_batch.L), micro_batch)
        return output.total, output.terms

    def _optimizer_step(self, loss_is_nonfinite: Tensor) -> tuple[Tensor, Tensor]:
        """Updates the weights if loss and gradients are finite; returns the gradient's norm, and whether they are not.

        The gradients are already those of all processes, so all processes decide the same.
        """
        scaler = self._accelerator.scaler
        parameters = list(self.colorizer.parameters())
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if scaler:
            # A GradScaler looks at gradients only: it skips the step where they are nan.
            factor = torch.where(loss_is_nonfinite | self._halted, math.nan, 1.0)
            torch._foreach_mul_(gradients, factor)
            scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.get_total_norm(gradients)
        nonfinite = loss_is_nonfinite | ~norm.isfinite()
        if scaler:
            # Gradients that overflow in fp16 are no error: the scaler skips the step and lowers its scale. They are an
            # error once there is nothing left to lower.
            nonfinite = loss_is_nonfinite | (nonfinite & (scaler._scale < 1))
        self._nonfinite_in_a_row = (self._nonfinite_in_a_row + 1) * nonfinite
        self._halted = self._halted | (self._nonfinite_in_a_row > self._max_nonfinite_steps)
        if self._max_grad_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, self._max_grad_norm, norm)
        if scaler:
            scaler.step(self.optimizer)
            scaler.update()
        elif getattr(self.optimizer, "_step_supports_amp_scaling", False):
            # What a GradScaler sets on a fused optimizer, which then changes no weight and counts no step.
            vars(self.optimizer).update(grad_scale=None, found_inf=(nonfinite | self._halted).float())
            self.optimizer.step()
        elif not (nonfinite | self._halted):  # the host waits here
            self.optimizer.step()
        return torch.where(norm.isfinite(), norm, 0), nonfinite

    def state_dict(self) -> dict[str, Any]:
        """Returns all that training needs besides the weights of `eval_model`: tensors and plain values by name."""
        scaler = self._accelerator.scaler
        optimizer = optimizer_state_dict(self.optimizer, self.colorizer)
        weights = self.colorizer.state_dict() if self.ema else {}
        return {
            "scaler": scaler.state_dict() if scaler else None,
            **{f"{OPTIMIZER}{name}": value for name, value in optimizer.items()},
            **{f"{WEIGHTS}{name}": tensor for name, tensor in weights.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state`, after the weights of `eval_model`; settings such as betas stay those of the run."""
        if self.ema:
            self.ema.module.load_state_dict(self.colorizer.state_dict())
        if weights := _part(state, WEIGHTS):
            self.colorizer.load_state_dict(weights)
        load_optimizer_state_dict(self.optimizer, self.colorizer, _part(state, OPTIMIZER))
        if (scaler := self._accelerator.scaler) and (saved := state.get("scaler")):
            if validated(dict[str, float], saved, "the scaler's state").keys() != scaler.state_dict().keys():
                raise ValueError(f"the checkpoint's scaler has other values: {', '.join(saved)}")
            scaler.load_state_dict(saved)


def _part(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Returns the values whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
