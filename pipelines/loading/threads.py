"""Threads that share out the samples of a batch."""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

_TASKS_EACH = 4  # per thread and batch: few cost less to hand over, many end together


def own_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Work:
    """What the threads are at."""

    def __init__(self, tasks: list[Future[None]]) -> None:
        self._tasks = tasks

    def wait(self) -> None:
        """Returns when all is done; raises what a thread has raised."""
        for task in self._tasks:
            task.result()

    def cancel(self) -> None:
        """Waits for what is being done, and leaves the rest."""
        for task in self._tasks:
            if not task.cancel():
                task.exception()


class Threads:
    """A number of threads, started when there is something to do."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._pool = ThreadPoolExecutor(number, thread_name_prefix="photochrom")

    def start(self, do: Callable[[int], None], number: int) -> Work:
        """Lets the threads do(0) ... do(number - 1)."""
        size = -(-number // (_TASKS_EACH * self._number))

        def task(start: int) -> None:
            for i in range(start, min(start + size, number)):
                do(i)

        return Work([self._pool.submit(task, start) for start in range(0, number, size)])
