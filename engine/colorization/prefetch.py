"""Prefetching in threads: reading, processing and writing overlap within a bounded amount of memory."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from threading import Condition
from typing import Generic, TypeVar

from ...pipelines.imaging.decode import Rejected
from ...pipelines.system import is_out_of_memory

Task = TypeVar("Task")
Source = TypeVar("Source")  # what `read` returns
Output = TypeVar("Output")  # what `process` makes of it
Result = TypeVar("Result")  # what `write` returns
T = TypeVar("T")

Reserve = Callable[[int], None]  # waits until so many bytes are free, and takes them


class OutOfMemory(Rejected):
    """A task that needs more memory than is free."""


def attempt(function: Callable[[], T]) -> T | Rejected:
    """Returns the function's result, or the Rejected that it raised; a lack of memory becomes OutOfMemory.

    The exception has no traceback, whose frames would hold images.
    """
    try:
        return function()
    except Rejected as rejected:
        return type(rejected)(rejected.reason, rejected.detail)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return OutOfMemory("not enough memory", f"lower --size{' or use --device cpu' * ('CUDA' in str(error))}")


class MemoryBudget:
    """A number of bytes that threads share. A request for more is granted once all others are released."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._used, self._closed = max_bytes, 0, False
        self._changed = Condition()

    def acquire(self, num_bytes: int) -> None:
        """Waits for the bytes. Raises CancelledError once the budget is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._used == 0 or self._used + num_bytes <= self._max_bytes)
            if self._closed:
                raise CancelledError
            self._used += num_bytes

    def release(self, num_bytes: int) -> None:
        """Gives bytes back."""
        with self._changed:
            self._used -= num_bytes
            self._changed.notify_all()

    def close(self) -> None:
        """Cancels all that wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def run_pipeline(
    tasks: Iterable[Task],
    *,
    read: Callable[[Task, Reserve], Source],
    process: Callable[[Source], Output],
    write: Callable[[Task, Source, Output], Result],
    num_threads: int,
    max_bytes: int,
) -> Iterator[tuple[Task, Result | Rejected]]:
    """Yields each task and what `write` returned, or why one of the three rejected it, as they are finished.

    `read` and `write` run in `num_threads` threads each, `process` in the caller's thread. Before it decodes, `read`
    reserves the bytes that its result takes until it is written: at most `max_bytes` are taken, or more by one task
    alone. A lack of memory rejects the task as OutOfMemory; exceptions other than Rejected end the pipeline.
    """
    budget = MemoryBudget(max_bytes)
    readers, writers = ThreadPoolExecutor(num_threads), ThreadPoolExecutor(num_threads)
    reading: list[Future[_ReadTask[Task, Source]]] = []
    writing: list[Future[tuple[Task, Result | Rejected]]] = []
    remaining = iter(tasks)

    def process_item(item: _ReadTask[Task, Source]) -> Rejected | None:
        """Processes and begins to write what was read; returns why not."""
        output = attempt(lambda: process(item.source))
        if isinstance(output, Rejected):
            budget.release(item.reserved)
            return output
        writing.append(writers.submit(_write, write, budget, item, output))
        return None

    try:
        while True:
            following = islice(remaining, 2 * num_threads - len(reading))
            reading.extend(readers.submit(_read, read, budget, task) for task in following)
            if not reading:
                break
            wait(reading, return_when=FIRST_COMPLETED)
            (item,), reading = _take_done(reading, 1)
            if rejected := item.rejected or process_item(item):
                yield item.task, rejected
            del item  # its memory counts only until it is written
            done, writing = _take_done(writing, len(writing))
            yield from done
        yield from (future.result() for future in writing)
    finally:
        budget.close()
        readers.shutdown(cancel_futures=True)
        writers.shutdown(cancel_futures=True)  # waits for what is being written


@dataclass(frozen=True)
class _ReadTask(Generic[Task, Source]):
    """A task that was read: its source and the bytes that it holds, or why it was rejected."""

    task: Task
    source: Source
    reserved: int = 0
    rejected: Rejected | None = None


def _read(read: Callable[[Task, Reserve], Source], budget: MemoryBudget, task: Task) -> _ReadTask[Task, Source]:
    reserved = 0

    def reserve(num_bytes: int) -> None:
        nonlocal reserved
        budget.acquire(num_bytes)
        reserved = num_bytes

    source = attempt(lambda: read(task, reserve))
    if isinstance(source, Rejected):
        budget.release(reserved)
        return _ReadTask(task, None, rejected=source)  # type: ignore[arg-type]
    return _ReadTask(task, source, reserved)


def _write(
    write: Callable[[Task, Source, Output], Result], budget: MemoryBudget, item: _ReadTask[Task, Source], output: Output
) -> tuple[Task, Result | Rejected]:
    try:
        return item.task, attempt(lambda: write(item.task, item.source, output))
    finally:
        budget.release(item.reserved)


def _take_done(futures: list[Future[T]], limit: int) -> tuple[list[T], list[Future[T]]]:
    """Returns the results of up to `limit` futures that are done, and the other futures."""
    done = [future for future in futures if future.done()][:limit]
    return [future.result() for future in done], [future for future in futures if future not in done]


def prefetch(items: Generator[T], number: int) -> Generator[T]:
    """Yields the items of a generator, which runs in a thread up to `number` items ahead; closes it at the end."""
    end = object()
    with closing(items):
        thread = ThreadPoolExecutor(1)
        try:
            pending = deque(thread.submit(next, items, end) for _ in range(number))
            while (item := pending.popleft().result()) is not end:
                pending.append(thread.submit(next, items, end))
                yield item  # type: ignore[misc]  # not the end
        finally:
            thread.shutdown(cancel_futures=True)
