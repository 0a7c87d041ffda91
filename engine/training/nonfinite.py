"""What is said and kept of a step whose loss or gradients were infinite or nan."""

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
from .train_step import Trainer

_NAMED = 8  # photographs in one sentence


def report_nonfinite(
    config: RunConfig, trainer: Trainer, data: ShardSet, batch: LabBatch, *, step: int, last: bool
) -> None:
    """Says which photographs a step without finite gradients saw, and keeps its batch if it was the `last` to be borne.

    To be called by all processes. Raises ValueError when it was.
    """
    # If each has a finite loss alone, it is their gradients, or all together.
    mine = _without_finite_loss(trainer, batch)
    suspects = gather(mine)
    guilty = bool(mine) or not suspects
    suspects = suspects or gather(batch.index.tolist())
    named = ", ".join(data.sample(i).key for i in suspects[:_NAMED])
    more = f" and {len(suspects) - _NAMED} more" if len(suspects) > _NAMED else ""
    what = f"the loss or its gradients became infinite or nan in step {step}, with {named}{more}"
    if not last:
        if is_first_process():
            console.print(f"{what}: the step was left out")
        return
    kept = f", and its batch is kept in {_keep(config.out, batch, step)}" if guilty else ""
    raise ValueError(
        f"{what}; the weights stayed as they were before it{kept}: try {_remedies(config)}a lower --optim.lr or "
        "--train.precision fp32, or bear with some by --train.max_nonfinite_steps"
    )


def _remedies(config: RunConfig) -> str:
    """What to try first: fp16 ends at 65,504."""
    return "--train.grad_compression none, " if config.train.grad_compression == "fp16" else ""


@torch.no_grad()
def _without_finite_loss(trainer: Trainer, batch: LabBatch) -> list[int]:
    """The numbers of those photographs of this process's share that have no finite loss when each is alone."""
    colorizer, loss = deepcopy(trainer.colorizer).train(), trainer.loss.eval()
    vars(colorizer).pop("forward", None)  # Accelerate's, which is that of the original
    for module in colorizer.modules():
        if isinstance(module, nn.SyncBatchNorm):
            module.__class__ = nn.BatchNorm2d  # type: ignore[assignment]  # each photograph by statistics of its own
    alone = [batch[i : i + 1] for i in range(len(batch))]
    return [int(one.index) for one in alone if not loss(colorizer(one.L), one).total.isfinite()]


def _keep(out: Path, batch: LabBatch, step: int) -> Path:
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    path = out / f"nonfinite-step-{step:08d}-rank-{rank}.safetensors"
    out.mkdir(parents=True, exist_ok=True)  # of another node
    with atomic_write(path) as file:
        save_file({name: getattr(batch, name).cpu().contiguous() for name in ("L", "ab", "index")}, file)
    return path
