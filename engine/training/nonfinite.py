"""The report of a step whose loss or gradients were infinite or nan."""

from copy import deepcopy
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from ...pipelines import LabBatch, ShardSet
from ...pipelines.files import atomic_write
from ..configuration.config import RunConfig
from ..console import console
from ..distributed import gather, is_first_process
from .trainer import Trainer

_MAX_NAMES = 8  # photographs in one sentence


def report_nonfinite(
    config: RunConfig, trainer: Trainer, data: ShardSet, batch: LabBatch, *, step: int, fatal: bool
) -> None:
    """Prints the photographs of a skipped step; all processes must call it.

    Raises ValueError instead if the step is `fatal`, once the batch is kept in the run's folder.
    """
    # Where every photograph has a finite loss by itself, it was their gradients, or all of them together.
    own_suspects = _samples_without_finite_loss(trainer, batch)
    suspects = gather(own_suspects)
    keeps_batch = bool(own_suspects) or not suspects
    suspects = suspects or gather(batch.index.tolist())
    names = ", ".join(data.sample(i).key for i in suspects[:_MAX_NAMES])
    more = f" and {len(suspects) - _MAX_NAMES} more" if len(suspects) > _MAX_NAMES else ""
    what = f"the loss or its gradients became infinite or nan in step {step}, with {names}{more}"
    if not fatal:
        if is_first_process():
            console.print(f"{what}: the step was skipped")
        return
    kept = f", and its batch is kept in {_keep(config.out, batch, step)}" if keeps_batch else ""
    compressed = config.train.grad_compression == "fp16"  # which ends at 65,504
    remedies = "--train.grad_compression none, " if compressed else ""
    raise ValueError(
        f"{what}; the weights stayed as they were before it{kept}: try {remedies}a lower --optim.lr or "
        "--train.precision fp32, or allow some such steps with --train.max_nonfinite_steps"
    )


@torch.no_grad()
def _samples_without_finite_loss(trainer: Trainer, batch: LabBatch) -> list[int]:
    """Returns the indices of this process's photographs that have no finite loss by themselves."""
    colorizer, loss = deepcopy(trainer.colorizer).train(), trainer.loss.eval()
    vars(colorizer).pop("forward", None)  # Accelerate's, which is bound to the original
    for module in colorizer.modules():
        if isinstance(module, nn.SyncBatchNorm):
            module.__class__ = nn.BatchNorm2d  # type: ignore[assignment]  # statistics of one photograph
    samples = [batch[i : i + 1] for i in range(len(batch))]
    return [int(sample.index) for sample in samples if not loss(colorizer(sample.L), sample).total.isfinite()]


def _keep(out: Path, batch: LabBatch, step: int) -> Path:
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    path = out / f"nonfinite-step-{step:08d}-rank-{rank}.safetensors"
    out.mkdir(parents=True, exist_ok=True)  # on another host
    with atomic_write(path) as file:
        save_file({name: getattr(batch, name).cpu().contiguous() for name in ("L", "ab", "index")}, file)
    return path
