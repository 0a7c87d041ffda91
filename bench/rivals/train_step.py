"""Measures the training step of the original project, as in PyTorch's tutorials, beside the engine's.

Both train in turn on the same batch from the same weights: the network and loss of recipe l2 (squared error of ab at
the photograph's resolution), with Adam at its learning rate.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...engine.configuration.config import DataConfig, Device, ModelSpec, Precision, RunConfig, TrainConfig
from ...engine.distributed import make_training_accelerator, resolve_device, resolve_precision
from ...engine.training.trainer import Trainer
from ...losses import L2
from ...models import VGGColorizer
from ...pipelines import LabBatch, TorchLoader
from ..common.timing import collect, interleave
from .entries import BASELINE

NEEDS = ()

_ARGUMENTS: dict[str, Any] = {"normalization": "seed", "upsampling": "bicubic"}  # of the network, as in recipe l2
_LR = 1e-4
_NUM_STEPS = {"cpu": 1, "cuda": 10}  # timed together, so that asynchronous launches count

Step = Callable[[], Any]


def measure(data: str, size: int, batch_size: int, threads: int, device: Device, seconds: float) -> dict[str, Any]:
    """Returns the throughputs of each round, and the loss of the first step of each."""
    torch.set_num_threads(threads)
    torch_device = resolve_device(device)
    batch = _batch(data, size, batch_size, threads, torch_device)
    steps = {
        BASELINE: _original(batch, torch_device),
        "engine fp32": _engine(batch, device, "fp32"),
    }
    auto = resolve_precision("auto", torch_device.type)
    if auto != "fp32":
        steps[f"engine {auto}"] = _engine(batch, device, auto)
    first = {name: float(step()) for name, step in steps.items()}
    num_steps = _NUM_STEPS[torch_device.type]
    times = collect(interleave({name: _repeat(step, num_steps) for name, step in steps.items()}, torch_device), seconds)
    throughputs = {name: [num_steps * batch_size / seconds for seconds in values] for name, values in times.items()}
    return {"rates(img/s)": throughputs, "first_loss": first, "batch_size": batch_size}


def _batch(data: str, size: int, batch_size: int, threads: int, device: torch.device) -> LabBatch:
    loader = TorchLoader(data, batch_size=batch_size, size=size, train=False, crop="squash", threads=threads)
    with closing(loader):
        first = next(iter(loader))
    return LabBatch(L=first.L.to(device), ab=first.ab.to(device), index=first.index)


def _original(batch: LabBatch, device: torch.device) -> Step:
    torch.manual_seed(0)
    model = VGGColorizer(**_ARGUMENTS).to(device).train()
    optimizer, criterion = torch.optim.Adam(model.parameters(), lr=_LR), nn.MSELoss()

    def step() -> float:
        with torch_defaults(device):
            optimizer.zero_grad()
            loss = criterion(model(batch.L).ab(), batch.ab)
            loss.backward()
            optimizer.step()
            return loss.item()

    return step


@contextmanager
def torch_defaults(device: torch.device) -> Iterator[None]:
    """Applies torch's default settings on a GPU, and restores those of `make_training_accelerator` after."""
    if device.type == "cpu":
        yield
        return
    benchmark, precision = torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()
    try:
        torch.backends.cudnn.benchmark = False
        torch.set_float32_matmul_precision("highest")
        yield
    finally:
        torch.backends.cudnn.benchmark = benchmark
        torch.set_float32_matmul_precision(precision)


def _engine(batch: LabBatch, device: Device, precision: Precision) -> Step:
    run = RunConfig(
        out=Path("unused"),
        data=DataConfig(train="unused", size=batch.L.shape[-1]),
        model=ModelSpec(class_path="VGGColorizer", init_args=_ARGUMENTS),
        train=TrainConfig(batch_size=len(batch), device=device, precision=precision),
    )
    accelerator = make_training_accelerator(run.train)
    torch.manual_seed(0)
    trainer = Trainer(VGGColorizer(**_ARGUMENTS), L2(resolution="input"), run, accelerator)
    return lambda: trainer.train_step(batch, step=0, lr=_LR)[0]["loss"]


def _repeat(step: Step, number: int) -> Callable[[], None]:
    def repeat() -> None:
        for _ in range(number):
            step()

    return repeat
