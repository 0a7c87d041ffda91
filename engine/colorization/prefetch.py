"""Reading ahead and writing behind: threads that keep the network busy, within a bounded amount of memory."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from queue import Full, Queue
from threading import Condition, Event, Thread
from typing import Generic, TypeVar

from ...pipelines.imaging.decode import Rejected

J = TypeVar("J")  # what is to be done
P = TypeVar("P")  # what was read
W = TypeVar("W")  # what was made of it
R = TypeVar("R")  # what is said when it is written
T = TypeVar("T")

Reserve = Callable[[int], None]  # told the bytes that are about to be needed, it waits until they are there


class Cancelled(Exception):
    """The budget was closed while a thread waited for it."""


class Budget:
    """So many bytes, handed out in the order of turns: the one all others wait for is always the first to get some.

    What needs more than there are gets them once nobody else has any.
    """

    def __init__(self, total: int) -> None:
        self._total, self._used, self._turn, self._closed = total, 0, 0, False
        self._changed = Condition()

    def take(self, turn: int, amount: int) -> None:
        """Waits for the turns before, and for the bytes. Raises Cancelled once the budget is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or (self._turn == turn and self._fits(amount)))
            if self._closed:
                raise Cancelled
            self._used += amount
            self._turn += 1
            self._changed.notify_all()

    def give(self, amount: int) -> None:
        """Gives bytes back."""
        with self._changed:
            self._used -= amount
            self._changed.notify_all()

    def close(self) -> None:
        """Sends all away that wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _fits(self, amount: int) -> bool:
        return amount == 0 or self._used == 0 or self._used + amount <= self._total


class _Reading(Generic[J, P]):
    """A job's turn at being read: what came of it, and the bytes that it holds."""

    def __init__(self, turn: int, job: J, budget: Budget) -> None:
        self.job = job
        self.outcome: P | Rejected
        self._turn, self._budget, self._held, self._waiting = turn, budget, 0, True

    def run(self, read: Callable[[J, Reserve], P]) -> "_Reading[J, P]":
        try:
            self.outcome = read(self.job, self._reserve)
        except Rejected as rejected:
            self.outcome = rejected
            self.release()
        finally:
            if self._waiting:  # it failed before it knew its size: the next one's turn
                self._reserve(0)
        return self

    def release(self) -> None:
        self._budget.give(self._held)
        self._held = 0

    def _reserve(self, amount: int) -> None:
        self._waiting = False
        self._budget.take(self._turn, amount)
        self._held = amount


def overlapped(
    jobs: Sequence[J],
    *,
    read: Callable[[J, Reserve], P],
    work: Callable[[list[P]], list[W]],
    write: Callable[[J, P, W], R],
    together: int,
    threads: int,
    memory: int,
) -> Iterator[tuple[J, R | Rejected]]:
    """Every job and what `write` returned, or why `read` or `write` rejected it, as they are finished.

    `read` and `write` run in threads, up to `threads` of each; `work` runs in the caller's, on what has been read by
    then, up to `together` at once. `read` says, before it decodes, how many bytes its picture takes until it is
    written: no more than `memory` are taken at a time, or by one alone that needs more. Other exceptions end it all.
    """
    budget = Budget(memory)
    readers, writers = ThreadPoolExecutor(threads), ThreadPoolExecutor(threads)
    reading: deque[Future[_Reading[J, P]]] = deque()
    writing: deque[tuple[J, Future[R | Rejected]]] = deque()
    waiting = enumerate(jobs)
    try:
        while True:
            while len(reading) < together + threads and (following := next(waiting, None)):
                one: _Reading[J, P] = _Reading(*following, budget)
                reading.append(readers.submit(one.run, read))
            if not reading:
                break
            ready = [reading.popleft().result()]
            while reading and reading[0].done() and len(ready) < together:
                ready.append(reading.popleft().result())
            yield from ((it.job, it.outcome) for it in ready if isinstance(it.outcome, Rejected))
            sound = [it for it in ready if not isinstance(it.outcome, Rejected)]
            writing.extend(_worked(sound, work, write, writers))
            del ready, sound  # pictures, of which the budget knows only until they are written
            while writing and writing[0][1].done():
                yield _result(*writing.popleft())
        while writing:
            yield _result(*writing.popleft())
    finally:
        budget.close()
        readers.shutdown(cancel_futures=True)
        writers.shutdown(cancel_futures=True)  # what is being written is finished


def _worked(
    sound: list[_Reading[J, P]],
    work: Callable[[list[P]], list[W]],
    write: Callable[[J, P, W], R],
    writers: ThreadPoolExecutor,
) -> list[tuple[J, Future[R | Rejected]]]:
    """Lets the writers write what `work` makes."""
    if not sound:
        return []
    made = work([one.outcome for one in sound])  # type: ignore[misc]  # sound: none is Rejected
    return [(one.job, writers.submit(_written, write, one, it)) for one, it in zip(sound, made, strict=True)]


def _written(write: Callable[[J, P, W], R], one: _Reading[J, P], made: W) -> R | Rejected:
    try:
        return write(one.job, one.outcome, made)  # type: ignore[arg-type]
    except Rejected as rejected:
        return rejected
    finally:
        one.release()


def _result(job: J, future: Future[R | Rejected]) -> tuple[J, R | Rejected]:
    return job, future.result()


def ahead(items: Generator[T], number: int) -> Generator[T]:
    """The items, which a thread gets, up to `number` of them before they are asked for; both end together."""
    queue: Queue[tuple[bool, T | BaseException | None]] = Queue(number)
    left = Event()

    def put(more: bool, item: T | BaseException | None) -> None:
        while not left.is_set():
            with suppress(Full):
                queue.put((more, item), timeout=0.1)
                break

    def fetch() -> None:
        try:
            with closing(items):
                for item in items:
                    put(True, item)
                    if left.is_set():
                        return
            put(False, None)
        except BaseException as error:  # for the thread that asks
            put(False, error)

    thread = Thread(target=fetch, daemon=True)
    thread.start()
    try:
        while True:
            more, item = queue.get()
            if more:
                yield item  # type: ignore[misc]
            elif isinstance(item, BaseException):
                raise item
            else:
                return
    finally:
        left.set()
        thread.join()
