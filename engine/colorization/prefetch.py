"""Prefetching in threads: reading, processing and writing overlap within a bounded amount of memory."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from queue import Full, Queue
from threading import Condition, Event, Thread
from typing import Generic, TypeVar

from ...pipelines.imaging.decode import Rejected

Task = TypeVar("Task")
Source = TypeVar("Source")  # what `read` returns
Output = TypeVar("Output")  # what `process` makes of it
Result = TypeVar("Result")  # what `write` returns
T = TypeVar("T")

Reserve = Callable[[int], None]  # waits until so many bytes are free, and takes them


class Cancelled(Exception):
    """The budget was closed while a thread waited for it."""


class MemoryBudget:
    """A number of bytes, handed out in the order of turns: the task that all others wait for never waits for them.

    A request for more bytes than there are is granted once all others are released.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._used, self._turn, self._closed = max_bytes, 0, 0, False
        self._changed = Condition()

    def acquire(self, turn: int, num_bytes: int) -> None:
        """Waits for the turns before, and for the bytes. Raises Cancelled once the budget is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or (self._turn == turn and self._fits(num_bytes)))
            if self._closed:
                raise Cancelled
            self._used += num_bytes
            self._turn += 1
            self._changed.notify_all()

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

    def _fits(self, num_bytes: int) -> bool:
        return num_bytes == 0 or self._used == 0 or self._used + num_bytes <= self._max_bytes


class _Read(Generic[Task, Source]):
    """A task that is being read: its result, and the bytes that it holds."""

    def __init__(self, turn: int, task: Task, budget: MemoryBudget) -> None:
        self.task = task
        self.result: Source | Rejected
        self._turn, self._budget, self._held, self._is_waiting = turn, budget, 0, True

    def run(self, read: Callable[[Task, Reserve], Source]) -> "_Read[Task, Source]":
        try:
            self.result = read(self.task, self._reserve)
        except Rejected as rejected:
            self.result = rejected
            self.release()
        finally:
            if self._is_waiting:  # it failed before its size was known: the next turn
                self._reserve(0)
        return self

    def release(self) -> None:
        self._budget.release(self._held)
        self._held = 0

    def _reserve(self, num_bytes: int) -> None:
        self._is_waiting = False
        self._budget.acquire(self._turn, num_bytes)
        self._held = num_bytes


def run_pipeline(
    tasks: Sequence[Task],
    *,
    read: Callable[[Task, Reserve], Source],
    process: Callable[[list[Source]], list[Output]],
    write: Callable[[Task, Source, Output], Result],
    batch_size: int,
    num_threads: int,
    max_bytes: int,
) -> Iterator[tuple[Task, Result | Rejected]]:
    """Yields each task and what `write` returned, or why `read` or `write` rejected it, as they are finished.

    `read` and `write` run in `num_threads` threads each. `process` runs in the caller's thread on what has been read by
    then, up to `batch_size` at once. Before it decodes, `read` reserves the bytes that its result takes until it is
    written: at most `max_bytes` are taken, or more by one task alone. Exceptions other than Rejected end the pipeline.
    """
    budget = MemoryBudget(max_bytes)
    readers, writers = ThreadPoolExecutor(num_threads), ThreadPoolExecutor(num_threads)
    reading: deque[Future[_Read[Task, Source]]] = deque()
    writing: deque[tuple[Task, Future[Result | Rejected]]] = deque()
    remaining = enumerate(tasks)
    try:
        while True:
            while len(reading) < batch_size + num_threads and (following := next(remaining, None)):
                submitted: _Read[Task, Source] = _Read(*following, budget)
                reading.append(readers.submit(submitted.run, read))
            if not reading:
                break
            batch = [reading.popleft().result()]
            while reading and reading[0].done() and len(batch) < batch_size:
                batch.append(reading.popleft().result())
            yield from ((item.task, item.result) for item in batch if isinstance(item.result, Rejected))
            accepted = [item for item in batch if not isinstance(item.result, Rejected)]
            writing.extend(_process(accepted, process, write, writers))
            del batch, accepted  # their memory counts only until it is written
            while writing and writing[0][1].done():
                yield _result(*writing.popleft())
        while writing:
            yield _result(*writing.popleft())
    finally:
        budget.close()
        readers.shutdown(cancel_futures=True)
        writers.shutdown(cancel_futures=True)  # waits for what is being written


def _process(
    batch: list[_Read[Task, Source]],
    process: Callable[[list[Source]], list[Output]],
    write: Callable[[Task, Source, Output], Result],
    writers: ThreadPoolExecutor,
) -> list[tuple[Task, Future[Result | Rejected]]]:
    """Processes a batch and submits its outputs to the writers."""
    if not batch:
        return []
    outputs = process([item.result for item in batch])  # type: ignore[misc]  # none is Rejected
    return [
        (item.task, writers.submit(_write, write, item, output)) for item, output in zip(batch, outputs, strict=True)
    ]


def _write(
    write: Callable[[Task, Source, Output], Result], item: _Read[Task, Source], output: Output
) -> Result | Rejected:
    try:
        return write(item.task, item.result, output)  # type: ignore[arg-type]
    except Rejected as rejected:
        return rejected
    finally:
        item.release()


def _result(task: Task, future: Future[Result | Rejected]) -> tuple[Task, Result | Rejected]:
    return task, future.result()


def prefetch(items: Generator[T], number: int) -> Generator[T]:
    """Yields the items of a generator, which runs in a thread up to `number` items ahead; closes it at the end."""
    queue: Queue[tuple[bool, T | BaseException | None]] = Queue(number)
    closed = Event()

    def put(is_item: bool, item: T | BaseException | None) -> None:
        while not closed.is_set():
            with suppress(Full):
                queue.put((is_item, item), timeout=0.1)
                break

    def produce() -> None:
        try:
            with closing(items):
                for item in items:
                    put(True, item)
                    if closed.is_set():
                        return
            put(False, None)
        except BaseException as error:  # raised in the consumer's thread
            put(False, error)

    thread = Thread(target=produce, daemon=True)
    thread.start()
    try:
        while True:
            is_item, item = queue.get()
            if is_item:
                yield item  # type: ignore[misc]
            elif isinstance(item, BaseException):
                raise item
            else:
                return
    finally:
        closed.set()
        thread.join()
