"""What learns: network, loss and optimizer on this process's device, moved batch by batch.

Nothing here makes the host wait for the device: whether gradients are finite is decided where they are, and the weights
stay as they are when they are not.
"""

import math
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn

from ...losses import ColorLoss
from ...models import Colorizer
from ...pipelines import LabBatch
from ...pipelines.loading.hashing import random_bits
from ..configuration.config import RunConfig
from ..distributed import resolve_compile
from .ema import Average

HELD, NONFINITE, STOP = range(3)  # of the flags that `learn` returns


class Trainer:
    """Trains `colorizer` in place.

    Args:
        colorizer: Network whose weights are learnt.
        loss: What they are to make small.
        config: Of the run.
        accelerator: Of this process.
    """

    def __init__(self, colorizer: Colorizer, loss: ColorLoss, config: RunConfig, accelerator: Accelerator) -> None:
        train, device = config.train, accelerator.device
        self.colorizer = colorizer
        self.loss = loss.to(device)
        self._accelerator = accelerator
        self._seed, self._parts = train.seed, train.grad_accum_steps
        self._clip_norm, self._tolerated = config.optim.max_grad_norm, train.max_nonfinite_steps
        self._in_row = torch.zeros((), device=device)  # steps without finite gradients
        self._held = torch.zeros((), dtype=torch.bool, device=device)  # too many of them: nothing moves any more
        colorizer.to(device=device)
        if train.memory_format == "channels_last" or (train.memory_format == "auto" and device.type == "cuda"):
            colorizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if train.sync_batchnorm:
            nn.SyncBatchNorm.convert_sync_batchnorm(colorizer)
        colorizer.activation_checkpointing = train.activation_checkpointing
        side, part = config.data.size, train.batch_size // (accelerator.num_processes * train.grad_accum_steps)
        with accelerator.autocast():
            colorizer.autotune(100 * torch.rand(part, 1, side, side, device=device))
        self.average = Average(colorizer, train.ema) if train.ema else None
        self.optimizer = torch.optim.Adam(
            colorizer.parameters(),
            lr=config.optim.lr,
            betas=config.optim.betas,
            weight_decay=config.optim.weight_decay,
            fused=True,  # which can leave weights alone without telling the host
        )
        self._model: nn.Module = accelerator.prepare_model(colorizer)
        if self.average:  # to be seen in the same precision
            accelerator.prepare_model(self.average.colorizer, evaluation_mode=True)
        mode = resolve_compile(train, device)
        self._compiled = mode != "off"
        self._score = torch.compile(self._score_part, mode=mode) if self._compiled else self._score_part

    @property
    def eval_model(self) -> Colorizer:
        """The network to validate, to show and to save: the averaged one, if there is one."""
        return self.average.colorizer if self.average else self.colorizer

    def train_step(self, batch: LabBatch, *, step: int, lr: float, stop: int = 0) -> tuple[dict[str, Tensor], Tensor]:
        """One optimizer step on this process's share of a batch.

        Returns means over the share, of the loss, its terms and the length of the gradient, and the flags HELD, no step
        moves the weights any more, NONFINITE, this one did not, and STOP, the largest `stop` of any process. The flags
        are the same in all processes; a step that did not count has means of 0, and `counted` 0 in place of 1.
        """
        # A step's randomness, for models that have any, is a function of (seed, step, rank): a resumed run repeats it.
        torch.manual_seed(int(random_bits(self._seed, step, self._accelerator.process_index)[0] >> 1))
        self._model.train()
        self.loss.train()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        statistics = [buffer.clone() for buffer in self.colorizer.buffers()] if self._tolerated else []
        means = self._backward(batch)
        flags = torch.stack([~means["loss"].isfinite(), torch.full_like(self._held, stop, dtype=torch.float32)])
        if dist.is_initialized():
            dist.all_reduce(flags, dist.ReduceOp.MAX)
        means["grad_norm"], nonfinite = self._optimizer_step(flags[0] > 0)
        for buffer, before in zip(self.colorizer.buffers(), statistics, strict=False):
            buffer.copy_(torch.where(nonfinite, before, buffer))
        if self.average:
            self.average.update(self.colorizer, step)
        self.optimizer.zero_grad(set_to_none=True)
        counted = {name: torch.where(nonfinite, 0, value) for name, value in means.items()}
        return {**counted, "counted": (~nonfinite).float()}, torch.stack([self._held, nonfinite, flags[1]])

    def _backward(self, batch: LabBatch) -> dict[str, Tensor]:
        """Takes the gradients of the mean loss; returns it and its terms, detached."""
        means: dict[str, Tensor] = {}
        parts = batch.split(self._parts)
        for part in parts:
            if self._compiled:
                torch.compiler.cudagraph_mark_step_begin()
            # Gradients travel between processes once, with the last part.
            with nullcontext() if part is parts[-1] else self._accelerator.no_sync(self._model):
                total, terms = self._score(part)
                self._accelerator.backward(total / len(parts))
            for name, value in {"loss": total, **terms}.items():
                means[name] = means.get(name, 0) + value.detach() / len(parts)
        return means

    def _score_part(self, part: LabBatch) -> tuple[Tensor, dict[str, Tensor]]:
        output = self.loss(self._model(part.L), part)
        return output.total, output.terms

    def _optimizer_step(self, loss_nonfinite: Tensor) -> tuple[Tensor, Tensor]:
        """Moves the weights if all is finite; returns the gradient's length, and whether it is not.

        The gradients are those of all processes: what one has found, all have.
        """
        scaler = self._accelerator.scaler
        parameters = list(self.colorizer.parameters())
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if scaler:
            # A GradScaler looks at gradients alone: where nothing is to move, they are made what it leaves out.
            factor = torch.where(loss_nonfinite | self._held, math.nan, 1.0)
            torch._foreach_mul_(gradients, factor)
            scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.get_total_norm(gradients)
        nonfinite = loss_nonfinite | ~norm.isfinite()
        if scaler:
            # Gradients that overflow in fp16 are no error: the scaler leaves the step out, and scales less. Where it
            # does not scale any more, they are.
            nonfinite = loss_nonfinite | (nonfinite & (scaler._scale < 1))
        self._in_row = (self._in_row + 1) * nonfinite
        self._held = self._held | (self._in_row > self._tolerated)
        if self._clip_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, self._clip_norm, norm)
        if scaler:
            scaler.step(self.optimizer)
            scaler.update()
        else:
            # What a GradScaler tells a fused optimizer: it then moves nothing, and counts no step.
            told = {"grad_scale": None, "found_inf": (nonfinite | self._held).float()}
            vars(self.optimizer).update(told)
            self.optimizer.step()
        return torch.where(norm.isfinite(), norm, 0), nonfinite

    def state_dict(self) -> dict[str, Any]:
        """All that training needs besides the weights of `best`: tensors and plain values."""
        scaler = self._accelerator.scaler
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
            "weights": self.colorizer.state_dict() if self.average else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from where `state` was taken, whose `best` is loaded; settings such as betas are the new ones."""
        if self.average:
            self.average.colorizer.load_state_dict(self.colorizer.state_dict())
        if state["weights"]:
            self.colorizer.load_state_dict(state["weights"])
        now = [{key: value for key, value in group.items() if key != "params"} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, settings in zip(self.optimizer.param_groups, now, strict=True):
            group.update(settings)
        for parameter, moments in self.optimizer.state.items():  # saved, maybe, in another layout of memory
            for name in ("exp_avg", "exp_avg_sq"):
                moments[name] = torch.empty_like(parameter).copy_(moments[name])
        if self._accelerator.scaler and state["scaler"]:
            self._accelerator.scaler.load_state_dict(state["scaler"])
