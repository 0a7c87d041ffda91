"""Processes for work that can crash or hang: what does so twice loses its result, and nothing else is lost."""

import os
import pickle
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import forkserver, get_context, parent_process
from multiprocessing.connection import Connection, wait
from threading import Thread
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")
R = TypeVar("R")

Progress = Callable[[int, int | None, str], None]  # how much is done, of how much, in which unit

_WINDOW = 8  # results per worker that may wait for an earlier one

# Workers are forked from a server that has loaded what they need, once for all, and has no threads of its own.
_CONTEXT = get_context("forkserver")
_PRELOADED = ["torch", "nvidia.dali", f"{__package__}.process_image"]
_CONTEXT.set_forkserver_preload(_PRELOADED)


def check_settings(number: int | None, seconds: float) -> None:
    """Raises ValueError for what a user cannot mean with --workers and --time-limit."""
    if number is not None and number < 1:
        raise ValueError(f"--workers {number} is not a positive number of processes")
    if not seconds > 0:
        raise ValueError(f"--time-limit {seconds} is not a positive number of seconds")


def start_server(*modules: str) -> None:
    """Lets the server load, in the background, what workers need; else the first worker waits for it.

    `modules` of photochrom.pipelines are loaded too; one that runs already stays as it is.
    """
    _CONTEXT.set_forkserver_preload(
        [*_PRELOADED, *(f"{__package__.rpartition('.')[0]}.{module}" for module in modules)]
    )
    forkserver.ensure_running()


@dataclass(frozen=True, kw_only=True)
class TaskFailure:
    """What a task leaves whose worker, twice, died of it or gave no answer: `reason` is 'crashed' or 'hung'."""

    reason: str
    detail: str


@dataclass(kw_only=True)
class _Job(Generic[T]):
    task: T
    failures: int = 0
    done: bool = False
    result: Any = None


@dataclass(frozen=True)
class _Raised:
    text: str


class Workers(Generic[T, R]):
    """`number` processes that apply `function` to tasks; both travel by pickle.

    Each has `ahead` tasks at hand, so that it need not wait for the next; more than one only if tasks are small, since
    those that do not fit into a pipe are waited for, and what hangs takes none.

    A task whose worker dies, or takes longer than `seconds`, is tried once more by a new worker.
    """

    def __init__(self, function: Callable[[T], R], *, number: int, seconds: float, ahead: int = 2) -> None:
        self._function, self._number, self._seconds, self._ahead = function, number, seconds, ahead
        self._workers = [_Worker[T](function) for _ in range(number)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.end()

    def map(self, tasks: Iterable[T]) -> Generator[tuple[T, R | TaskFailure]]:
        """Each task with its result, in the order of the tasks. Raises RuntimeError when the function raises."""
        todo = iter(tasks)
        ordered: deque[_Job[T]] = deque()
        unassigned: deque[_Job[T]] = deque()
        while True:
            new = [_Job(task=task) for task in islice(todo, _WINDOW * self._number - len(ordered))]
            ordered.extend(new)
            unassigned.extend(new)
            if not ordered:
                return
            self._assign(unassigned)
            self._collect(unassigned)
            while ordered and ordered[0].done:
                job = ordered.popleft()
                if isinstance(job.result, _Raised):
                    raise RuntimeError(f"a worker failed at {job.task}:\n{job.result.text}")
                yield job.task, job.result

    def _assign(self, unassigned: deque[_Job[T]]) -> None:
        for worker in sorted(self._workers, key=lambda worker: len(worker.jobs)):
            while unassigned and len(worker.jobs) < self._ahead:
                worker.give(unassigned.popleft())

    def _collect(self, unassigned: deque[_Job[T]]) -> None:
        """Waits until a worker answers, dies or is late."""
        busy = {worker.pipe: worker for worker in self._workers if worker.jobs}
        deadlines = [worker.since + self._seconds for worker in busy.values() if worker.since is not None]
        patience = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        for pipe in wait(list(busy), timeout=patience):
            assert isinstance(pipe, Connection)
            if not busy[pipe].receive():
                self._replace(busy[pipe], unassigned, hung=False)
        for worker in self._workers:
            if worker.jobs and worker.since is not None and time.monotonic() > worker.since + self._seconds:
                self._replace(worker, unassigned, hung=True)

    def _replace(self, worker: "_Worker[T]", unassigned: deque[_Job[T]], *, hung: bool) -> None:
        """Puts a new worker in the place of one that died or hung; its tasks are done first."""
        ready, code = worker.ready, worker.end()
        if not ready:
            raise RuntimeError(f"a worker process could not start ({_cause(code)})")
        culprit, *others = worker.jobs
        culprit.failures += 1
        if culprit.failures == 2:
            culprit.done = True
            culprit.result = (
                TaskFailure(reason="hung", detail=f"no result after {self._seconds:g} s")
                if hung
                else TaskFailure(reason="crashed", detail=_cause(code))
            )
        else:
            others.insert(0, culprit)
        unassigned.extendleft(reversed(others))
        self._workers[self._workers.index(worker)] = _Worker(self._function)


@dataclass(eq=False)
class _Worker(Generic[T]):
    """One process, and the tasks that it has been given; `since` is when it began with the first of them."""

    function: Callable[[T], Any]
    jobs: deque[_Job[T]] = field(default_factory=deque)
    since: float | None = None
    ready: bool = False

    def __post_init__(self) -> None:
        self.pipe, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(theirs, self.function), daemon=True)
        self._process.start()
        theirs.close()

    def give(self, job: _Job[T]) -> None:
        if self.ready and not self.jobs:
            self.since = time.monotonic()
        self.jobs.append(job)
        with suppress(OSError):  # if it has died, that is seen when its answer is waited for
            self.pipe.send_bytes(pickle.dumps(job.task))

    def receive(self) -> bool:
        """Takes what has arrived; false when the process has died."""
        try:
            answer = pickle.loads(self.pipe.recv_bytes())
        except (EOFError, OSError):
            return False
        if self.ready:
            job = self.jobs.popleft()
            job.done, job.result = True, answer
        self.ready = True
        self.since = time.monotonic() if self.jobs else None
        return True

    def end(self) -> int:
        """Ends the process, which holds nothing that it could lose; returns its exit code."""
        self.pipe.close()
        self._process.join(timeout=0.05)  # one that has died by itself says of what
        self._process.kill()
        self._process.join()
        return self._process.exitcode or 0


def _serve(pipe: Connection, function: Callable[[T], Any]) -> None:
    """What a worker does."""
    follow_the_parent()
    with suppress(OSError):
        pipe.send_bytes(pickle.dumps("ready"))
    while True:
        try:
            task = pickle.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        try:
            answer = function(task)
        except Exception:
            answer = _Raised(traceback.format_exc())
        with suppress(OSError):  # the pool has been closed: nobody wants it
            pipe.send_bytes(pickle.dumps(answer))


def follow_the_parent() -> None:
    """This process ends with its parent, even a killed one, and not before it at Ctrl-C, which reaches the group."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    Thread(target=follow, daemon=True).start()


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}, perhaps for want of memory" if name == "SIGKILL" else name
