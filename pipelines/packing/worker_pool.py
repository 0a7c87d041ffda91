"""Processes for work that can crash or hang: a task that does so twice loses its result, and nothing else is lost."""

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
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")
R = TypeVar("R")

Progress = Callable[[int, int | None, str], None]  # amount done, total if known, unit

_WINDOW = 8  # results per worker that may wait for an earlier one

# Workers are forked from a server process that has loaded their modules once for all, and has no threads.
_CONTEXT = get_context("forkserver")
_PRELOADED = ["torch", "nvidia.dali", f"{__package__}.process_image"]
_CONTEXT.set_forkserver_preload(_PRELOADED)


def check_settings(number: int | None, seconds: float) -> None:
    """Raises ValueError for impossible values of --workers and --time-limit."""
    if number is not None and number < 1:
        raise ValueError(f"--workers {number} is not a positive number of processes")
    if not seconds > 0:
        raise ValueError(f"--time-limit {seconds} is not a positive number of seconds")


def start_server(*modules: str) -> None:
    """Starts the server that workers are forked from; it loads their modules in the background.

    `modules` of photochrom.pipelines are loaded too. A server that runs already stays as it is.
    """
    package = __package__.rpartition(".")[0]
    _CONTEXT.set_forkserver_preload([*_PRELOADED, *(f"{package}.{module}" for module in modules)])
    forkserver.ensure_running()


@dataclass(frozen=True, kw_only=True)
class TaskFailure:
    """The result of a task whose worker died or gave no answer, twice: `reason` is 'crashed' or 'hung'."""

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
    """The traceback of a function that raised in a worker."""

    text: str


class Workers(Generic[T, R]):
    """`number` processes that apply `function` to tasks; both are pickled.

    Each worker holds up to `ahead` tasks, so that it does not wait for the next one. Use more than one only for small
    tasks: sending blocks when tasks do not fit into a pipe, and a hanging worker receives none.

    A task whose worker dies, or takes longer than `seconds`, is tried once more by a new worker.
    """

    def __init__(self, function: Callable[[T], R], *, number: int, seconds: float, ahead: int = 2) -> None:
        self._function, self._number, self._seconds, self._ahead = function, number, seconds, ahead
        self._workers = [_Worker[T](function) for _ in range(number)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            worker.kill()

    def map(self, tasks: Iterable[T]) -> Generator[tuple[T, R | TaskFailure]]:
        """Yields each task with its result, in the order of the tasks. Raises RuntimeError if the function raises."""
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
                worker.submit(unassigned.popleft())

    def _collect(self, unassigned: deque[_Job[T]]) -> None:
        """Waits until a worker answers, dies or is late."""
        busy = {worker.pipe: worker for worker in self._workers if worker.jobs}
        deadlines = [worker.started + self._seconds for worker in busy.values() if worker.started is not None]
        timeout = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        for pipe in wait(list(busy), timeout=timeout):
            assert isinstance(pipe, Connection)
            if not busy[pipe].receive():
                self._replace(busy[pipe], unassigned, hung=False)
        for worker in self._workers:
            if worker.jobs and worker.started is not None and time.monotonic() > worker.started + self._seconds:
                self._replace(worker, unassigned, hung=True)

    def _replace(self, worker: "_Worker[T]", unassigned: deque[_Job[T]], *, hung: bool) -> None:
        """Starts a new worker for one that died or hung, whose tasks come first."""
        ready, code = worker.ready, worker.kill()
        if not ready:
            raise RuntimeError(f"a worker process could not start ({_explain(code)})")
        culprit, *others = worker.jobs
        culprit.failures += 1
        if culprit.failures == 2:
            culprit.done = True
            culprit.result = (
                TaskFailure(reason="hung", detail=f"no result after {self._seconds:g} s")
                if hung
                else TaskFailure(reason="crashed", detail=_explain(code))
            )
        else:
            others.insert(0, culprit)
        unassigned.extendleft(reversed(others))
        self._workers[self._workers.index(worker)] = _Worker(self._function)


@dataclass(eq=False)
class _Worker(Generic[T]):
    """One process and its tasks; `started` is the time at which it began with the first of them."""

    function: Callable[[T], Any]
    jobs: deque[_Job[T]] = field(default_factory=deque)
    started: float | None = None
    ready: bool = False

    def __post_init__(self) -> None:
        self.pipe, child_pipe = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_run_worker, args=(child_pipe, self.function), daemon=True)
        self._process.start()
        child_pipe.close()

    def submit(self, job: _Job[T]) -> None:
        if self.ready and not self.jobs:
            self.started = time.monotonic()
        self.jobs.append(job)
        with suppress(OSError):  # of a dead worker, which `receive` notices
            self.pipe.send_bytes(pickle.dumps(job.task))

    def receive(self) -> bool:
        """Takes the answer that has arrived; returns False if the process has died."""
        try:
            answer = pickle.loads(self.pipe.recv_bytes())
        except (EOFError, OSError):
            return False
        if self.ready:
            job = self.jobs.popleft()
            job.done, job.result = True, answer
        self.ready = True
        self.started = time.monotonic() if self.jobs else None
        return True

    def kill(self) -> int:
        """Ends the process, which has nothing to lose; returns its exit code."""
        self.pipe.close()
        self._process.join(timeout=0.05)  # a process that died by itself has a telling exit code
        self._process.kill()
        self._process.join()
        return self._process.exitcode or 0


def _run_worker(pipe: Connection, function: Callable[[T], Any]) -> None:
    _exit_with_parent()
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
        with suppress(OSError):  # the pool has been closed
            pipe.send_bytes(pickle.dumps(answer))


def _exit_with_parent() -> None:
    """Ends this process when its parent ends, even by a kill, and leaves Ctrl-C (sent to the group) to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _explain(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}, perhaps out of memory" if name == "SIGKILL" else name
