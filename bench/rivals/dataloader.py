"""torch's DataLoader, for rivals without a loader of their own."""

from collections.abc import Callable, Iterator
from typing import Any

from .decoding import Planes
from .task import Task, files


class Files:
    """Dataset of a folder's photographs: L, ab and the number; `planes` makes L and ab from a path."""

    def __init__(self, task: Task, planes: Callable[[str, Task], Planes]) -> None:
        self._paths, self._task, self._planes = files(task.data), task, planes

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> tuple[Any, Any, int]:
        return *self._planes(self._paths[number], self._task), number


def endless(dataset: Any, task: Task) -> Iterator[Any]:
    """Yields batches of one endless epoch, so that queues stay full: each photograph once, then each again."""
    from torch.utils.data import DataLoader, RandomSampler

    sampler = RandomSampler(dataset, num_samples=len(dataset) * 10**6)
    yield from DataLoader(dataset, task.batch_size, sampler=sampler, num_workers=task.threads)
