"""This project's loaders, as in training."""

from pathlib import Path

import torch

from ... import pipelines
from .task import SQUASH, Batches, Task


def batches(task: Task) -> Batches:
    loader = getattr(pipelines, task.loader)(
        task.data,
        batch_size=task.batch_size,
        size=task.size,
        train=True,
        crop=task.crop,
        flip=task.crop != SQUASH,  # as rivals do
        threads=task.threads,
        device=task.device,
    )
    samples = map(loader.data.sample, range(loader.data.num_samples))
    numbers = torch.tensor([int(Path(sample.path).stem) for sample in samples])
    while True:
        for batch in loader:
            yield batch.L, batch.ab, numbers[batch.index]
