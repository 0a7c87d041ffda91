"""This project's loaders, as in training."""

from importlib import import_module
from pathlib import Path

from .task import Batches, Task

NEEDS = ()


def batches(task: Task) -> Batches:
    import torch

    loader = getattr(import_module("...pipelines", __package__), task.loader)(
        task.data,
        batch_size=task.batch_size,
        size=task.size,
        train=True,
        crop=task.crop,
        flip=task.crop != "squash",  # as rivals do
        threads=task.threads,
        device=task.device,
    )
    samples = map(loader.data.sample, range(loader.data.num_samples))
    numbers = torch.tensor([int(Path(sample.path).stem) for sample in samples])
    while True:
        for batch in loader:
            yield batch.L, batch.ab, numbers[batch.index]
