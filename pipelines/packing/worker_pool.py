"""Processes for work that can crash or hang: a task that does so twice loses its result, and nothing else is lost."""

import os
import signal
import tempfile
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing import current_process, forkserver, get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from threading import Lock, Thread
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")
R = TypeVar("R")

Progress = Callable[[int, int | None, str], None]  # amount done, total if known, unit

_MAX_TEMPDIR = 70  # bytes; multiprocessing adds /pymp-XXXXXXXX/listener-XXXXXXXX
_DESCRIPTORS = Path("/proc/self/fd")
_SERVER_LOCK = Lock()
_WINDOW = 8  # results per worker that may wait for an earlier one

# Workers are forked from a server process that has loaded their modules once for all, and has no threads.
_CONTEXT = get_context("forkserver")
_PRELOADED = ["torch", "nvidia.dali", f"{__package__}.process_image"]
_CONTEXT.set_forkserver_preload(_PRELOADED)


def start_server(*modules: str) -> None:
    """Starts the server that workers are forked from; it loads their modules in the background.

    `modules` of photochrom.pipelines are loaded too. A server that runs already stays as it is.
    """
    package = __package__.rpartition(".")[0]
    _CONTEXT.set_forkserver_preload([*_PRELOADED, *(f"{package}.{module}" for module in modules)])
    _ensure_server()


def _ensure_server() -> None:
    """Starts the server unless it runs, and removes its socket's name and folder, so that not even a kill leaves them.

    multiprocessing removes them only at an orderly end, and connects by name for each process. On Linux, a descriptor
    of the socket has a name too: in /proc, which ends with this process.
    """
    server: Any = forkserver._forkserver
    settings: dict[str, Any] = current_process()._config  # type: ignore[attr-defined]
    with _SERVER_LOCK, ExitStack() as stack:
        if _DESCRIPTORS.exists():
            folder = stack.enter_context(TemporaryDirectory(prefix="pymp-", dir=_socket_root()))
            stack.callback(settings.update, tempdir=settings.get("tempdir"))
            settings["tempdir"] = folder
        forkserver.ensure_running()
        address = Path(server._forkserver_address)
        if _DESCRIPTORS.exists() and address.parent != _DESCRIPTORS:
            server._forkserver_address = str(_DESCRIPTORS / str(os.open(address, os.O_PATH)))


def _socket_root() -> str:
    """Returns the folder for temporary files, or /tmp where it is too long: the path of a socket ends at 107 bytes."""
    root = tempfile.gettempdir()
    return root if len(os.fsencode(root)) <= _MAX_TEMPDIR else "/tmp"


@dataclass(frozen=True, kw_only=True)
class TaskFailure:
    """The result of a task whose worker died or gave no answer, twice: `reason` is 'crashed' or 'hung'."""

    reason: str
    detail: str


@dataclass(frozen=True)
class _Raised:
    """The traceback of a function that raised in a worker."""

    text: str


class Workers(Generic[T, R]):
    """`number` processes that apply `function` to tasks, both pickled, and as many threads that wait for them.

    A task whose process dies, or takes longer than `seconds`, is tried once more in a new process.
    """

    def __init__(self, function: Callable[[T], R], *, number: int, seconds: float) -> None:
        self._number, self._seconds = number, seconds
        self._workers = [_Worker(function) for _ in range(number)]
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancels all tasks, and ends the processes, which have nothing to lose."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.close()
        self._threads.shutdown()

    def submit(self, task: T) -> Future[R | TaskFailure]:
        """Queues a task; returns its future. It raises RuntimeError if the function raises."""
        return self._threads.submit(self._run, task)

    def map(self, tasks: Iterable[T]) -> Generator[tuple[T, R | TaskFailure]]:
        """Yields each task with its result, in the order of the tasks. Raises RuntimeError if the function raises."""
        todo = iter(tasks)
        pending: deque[tuple[T, Future[R | TaskFailure]]] = deque()
        while True:
            new = islice(todo, _WINDOW * self._number - len(pending))
            pending.extend((task, self.submit(task)) for task in new)
            if not pending:
                return
            task, future = pending.popleft()
            yield task, future.result()

    def _run(self, task: T) -> R | TaskFailure:
        worker = self._idle.get()
        try:
            result = worker.run(task, self._seconds)
            if isinstance(result, TaskFailure):
                result = worker.run(task, self._seconds)
        finally:
            self._idle.put(worker)
        if isinstance(result, _Raised):
            raise RuntimeError(f"a worker failed at {task}:\n{result.text}")
        return result


class _Worker:
    """A process, replaced by a new one when it dies or hangs."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self._lock = Lock()  # a pool is closed while other threads start processes
        self._is_closed = False
        self._start()

    def _start(self) -> None:
        self._is_ready = False
        self._pipe, child_pipe = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_run_worker, args=(child_pipe, self._function), daemon=True)
        try:
            _ensure_server()
            self._process.start()
        except EOFError:  # the server of worker processes has ended
            raise OSError("worker processes could not start, perhaps out of memory: lower --workers") from None
        child_pipe.close()

    def run(self, task: Any, seconds: float) -> Any:
        """Returns the function's result, a TaskFailure, or _Raised."""
        hung = False
        try:
            self._is_ready = self._is_ready or self._pipe.recv()
            self._pipe.send(task)
            if self._pipe.poll(seconds):
                return self._pipe.recv()
            hung = True
        except (EOFError, OSError):  # the process has died
            pass
        was_ready, code = self._is_ready, self._restart()
        if not was_ready:
            raise OSError(f"a worker process could not start ({_explain(code)}): lower --workers")
        if hung:
            return TaskFailure(reason="hung", detail=f"no result after {seconds:g} s")
        return TaskFailure(reason="crashed", detail=_explain(code))

    def _restart(self) -> int:
        """Replaces the process; returns its exit code."""
        with self._lock:
            self._process.join(timeout=0.05)  # a process that died by itself has a telling exit code
            code = self._kill()
            if not self._is_closed:
                self._pipe.close()
                self._start()
            return code

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            self._kill()

    def _kill(self) -> int:
        self._process.kill()
        self._process.join()
        return self._process.exitcode or 0


def _run_worker(pipe: Connection, function: Callable[[Any], Any]) -> None:
    _exit_with_parent()
    with suppress(EOFError, OSError):  # the pool has been closed
        pipe.send(True)
        while True:
            pipe.send(_apply(function, pipe.recv()))  # keeps neither task nor result while it waits


def _apply(function: Callable[[Any], Any], task: Any) -> Any:
    try:
        return function(task)
    except Exception:
        return _Raised(traceback.format_exc())


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
