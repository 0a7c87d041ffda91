"""Threads that survive a fork: in notebooks, multiprocessing and servers, a process is forked after their first use."""

import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, TypeVar
from weakref import WeakSet

T = TypeVar("T")

_lock = Lock()  # held during a fork, so that no task begins


class ThreadPool(ThreadPoolExecutor):
    """ThreadPoolExecutor that finishes its tasks before a fork, and has new threads in both processes afterwards.

    A task must not submit tasks.
    """

    def __init__(self, threads: int) -> None:
        super().__init__(threads, thread_name_prefix="photochrom")
        _pools.add(self)

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        with _lock:
            return super().submit(function, *args, **kwargs)


_pools: WeakSet[ThreadPool] = WeakSet()


def _before_fork() -> None:
    _lock.acquire()
    for pool in list(_pools):
        pool.shutdown()


def _after_fork() -> None:
    for pool in list(_pools):
        pool.__init__(pool._max_workers)  # type: ignore[misc]
    _lock.release()


def _after_fork_in_child() -> None:
    _after_fork()
    if torch := sys.modules.get("torch"):  # its threads are gone, and it would wait for them
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
