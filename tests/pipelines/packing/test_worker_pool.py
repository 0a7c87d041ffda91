import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from photochrom.pipelines.packing.worker_pool import TaskFailure, Workers

CRASH = "__import__('os').kill(__import__('os').getpid(), 11)"
HANG = "__import__('time').sleep(60)"


def results(tasks: list[str], number: int = 2, seconds: float = 30) -> list[object]:
    # `eval` is a function that every process knows, and its tasks can do anything.
    with Workers(eval, number=number, seconds=seconds) as workers:
        return [result for _, result in workers.map(tasks)]


@pytest.mark.parametrize("number", [1, 3])
def test_results_come_in_the_order_of_the_tasks(number: int) -> None:
    tasks = [f"__import__('time').sleep({0.05 if i % 7 == 0 else 0}) or {i}" for i in range(60)]
    assert results(tasks, number) == list(range(60))


def test_a_crash_loses_its_task_and_no_other() -> None:
    answers = results(["0", "1", CRASH, "3", "4", CRASH, "6", "7"], number=1)
    failure = TaskFailure(reason="crashed", detail="SIGSEGV")
    assert answers == [0, 1, failure, 3, 4, failure, 6, 7]


def test_a_hang_loses_its_task_and_no_other() -> None:
    answers = results(["0", HANG, "2", "3"], seconds=0.5)
    assert answers == [0, TaskFailure(reason="hung", detail="no result after 0.5 s"), 2, 3]


def test_a_task_that_fails_once_is_done_by_a_second_worker(tmp_path) -> None:
    mark = str(tmp_path / "mark")
    once = f"__import__('os').path.exists({mark!r}) and 7 or (open({mark!r}, 'w').close(), {CRASH})"
    assert results([once, "8"]) == [7, 8]


def test_what_the_function_raises_is_shown() -> None:
    with pytest.raises(RuntimeError, match=r"a worker failed at 1/0:(.|\n)*ZeroDivisionError"):
        results(["1/0"])


def test_processes_that_cannot_start_are_not_started_for_ever() -> None:
    # The function is unpickled while a worker starts.
    with (
        pytest.raises(OSError, match="a worker process could not start"),
        Workers(Bomb(), number=1, seconds=9) as w,
    ):
        list(w.map(["1"]))


class Bomb:
    def __call__(self, task: str) -> str:
        return task

    def __reduce__(self) -> tuple:
        return os._exit, (3,)


def test_workers_end_with_the_pool() -> None:
    with Workers(eval, number=2, seconds=9) as workers:
        pids = {pid for _, pid in workers.map(["__import__('os').getpid()"] * 20)}
    assert pids
    deadline = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_pool_that_is_closed_does_not_wait_for_its_tasks() -> None:
    with Workers(eval, number=1, seconds=60) as workers:
        list(workers.map(["0"]))
        futures = [workers.submit(HANG) for _ in range(2)]
        began = time.monotonic()
    assert time.monotonic() - began < 10
    assert futures[1].cancelled()


def test_tasks_that_do_not_fit_into_a_pipe() -> None:
    large = "'" + "x" * 400_000 + "'"
    with Workers(eval, number=1, seconds=1) as workers:
        answers = [result for _, result in workers.map([f"len({large})", f"({HANG}, {large})", f"len({large})"])]
    assert answers == [400_000, TaskFailure(reason="hung", detail="no result after 1 s"), 400_000]


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """No signal leaves a temporary folder: there is none while the workers run, replaced ones, too."""
    code = (
        "from photochrom.pipelines.packing import worker_pool\n"
        "worker_pool._CONTEXT.set_forkserver_preload([])\n"
        "workers = worker_pool.Workers(eval, number=2, seconds=60)\n"
        f"for task, result in workers.map([{CRASH!r}, {HANG!r}, {HANG!r}]): print(result, flush=True)"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
    assert parent.stdout is not None
    parent.stdout.readline()
    children = descendants(str(parent.pid))
    assert len(children) >= 3  # two workers, and the server that they are forked from
    assert list(tmp_path.iterdir()) == []
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, "the workers live on"
        time.sleep(0.1)


def descendants(pid: str) -> list[str]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return children + [below for child in children for below in descendants(child)]
