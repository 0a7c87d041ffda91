import threading
import time
import weakref
from collections.abc import Generator
from concurrent.futures import CancelledError

import pytest
from photochrom.engine.colorization.prefetch import MemoryBudget, OutOfMemory, Reserve, prefetch, run_pipeline
from photochrom.pipelines.imaging.decode import Rejected


class HeldBytes:
    """The bytes that are held, and their maximum."""

    def __init__(self) -> None:
        self.current, self.maximum, self.lock = 0, 0, threading.Lock()

    def add(self, amount: int) -> None:
        with self.lock:
            self.current += amount
            self.maximum = max(self.maximum, self.current)


@pytest.mark.parametrize("sizes", [[10] * 40, [10, 250, 10, 10, 250, 99, 1] * 4, [250] * 5])
def test_the_memory_limit_is_kept(sizes: list[int]) -> None:
    """Tasks that need more than the limit run alone; nothing waits forever."""
    held = HeldBytes()

    def read(size: int, reserve: Reserve) -> int:
        reserve(size)
        held.add(size)
        time.sleep(0.001)
        return size

    def write(task: int, size: int, output: int) -> int:
        time.sleep(0.002)
        held.add(-size)
        return output

    settings = {"num_threads": 4, "max_bytes": 100}
    done = list(run_pipeline(sizes, read=read, process=lambda size: 2 * size, write=write, **settings))
    assert sorted(done) == sorted((size, 2 * size) for size in sizes)
    assert held.maximum <= max(100, *sizes)
    assert held.current == 0


def test_rejected_tasks_do_not_hold_up_others() -> None:
    def read(task: int, reserve: Reserve) -> int:
        if task % 3 == 0:
            raise Rejected("before its size was known")
        reserve(60)
        if task % 3 == 1:
            raise Rejected("after")
        return task

    def process(source: int) -> int:
        if source == 5:
            raise Rejected("not possible")
        return source

    def write(task: int, source: int, output: int) -> str:
        if task == 8:
            raise Rejected("no place")
        return "done"

    settings = {"num_threads": 3, "max_bytes": 100}
    done = dict(run_pipeline(range(30), read=read, process=process, write=write, **settings))
    reasons = {task: result.reason if isinstance(result, Rejected) else result for task, result in done.items()}
    assert reasons == {
        task: ["before its size was known", "after", {5: "not possible", 8: "no place"}.get(task, "done")][task % 3]
        for task in range(30)
    }


@pytest.mark.parametrize("failing", ["read", "process", "write"])
def test_a_task_that_lacks_memory_leaves_it_to_the_others(failing: str) -> None:
    """A failure that held its image would let the next ones fail, too."""

    class Image:
        def __init__(self) -> None:
            held.append(weakref.ref(self))

    held: list[weakref.ref[Image]] = []

    def fail(step: str, value: Image) -> Image:
        if step == failing:
            raise MemoryError
        return value

    results = run_pipeline(
        range(3),
        read=lambda task, reserve: fail("read", Image()),
        process=lambda source: fail("process", source),
        write=lambda task, source, output: fail("write", source),
        num_threads=1,
        max_bytes=0,
    )
    failures = [result for _, result in results]
    assert [isinstance(failure, OutOfMemory) for failure in failures] == [True] * len(held) == [True] * 3
    assert not any(image() for image in held)


def test_reading_and_writing_overlap_with_processing() -> None:
    """The second task is processed while the first is written and the third is read: each waits for the other two."""
    together = threading.Barrier(3, timeout=20)

    def read(task: int, reserve: Reserve) -> int:
        if task == 2:
            together.wait()
        return task

    def process(source: int) -> int:
        if source == 1:
            together.wait()
        return source

    def write(task: int, read: int, output: int) -> int:
        if task == 0:
            together.wait()
        return task

    done = run_pipeline(range(3), read=read, process=process, write=write, num_threads=2, max_bytes=100)
    assert sorted(task for task, _ in done) == [0, 1, 2]


@pytest.mark.parametrize("failing", ["read", "process", "write"])
def test_other_errors_end_the_pipeline_and_its_threads(failing: str) -> None:
    def fail(step: str, result: object) -> object:
        if step == failing:
            raise OSError(28, "No space left on device")
        return result

    def read(task: int, reserve: Reserve) -> object:
        reserve(80)  # so that others wait
        return fail("read", task)

    before = threading.active_count()
    with pytest.raises(OSError, match="No space left"):
        list(
            run_pipeline(
                range(20),
                read=read,
                process=lambda source: fail("process", source),
                write=lambda *_: fail("write", None),
                num_threads=3,
                max_bytes=100,
            )
        )
    assert threading.active_count() == before


def test_a_closed_budget_cancels_waiting_threads() -> None:
    budget = MemoryBudget(100)
    budget.acquire(90)
    caught: list[Exception] = []

    def wait() -> None:
        try:
            budget.acquire(20)
        except CancelledError as cancelled:
            caught.append(cancelled)

    thread = threading.Thread(target=wait)
    thread.start()
    budget.close()
    thread.join(5)
    assert len(caught) == 1


def test_prefetch_runs_ahead_and_stops_with_its_consumer() -> None:
    got: list[int] = []
    closed = threading.Event()

    def numbers() -> Generator[int]:
        try:
            for number in range(1000):
                got.append(number)
                yield number
        finally:
            closed.set()

    items = prefetch(numbers(), 3)
    assert [next(items), next(items)] == [0, 1]
    limit = time.monotonic() + 20
    while len(got) < 2 + 3 and time.monotonic() < limit:
        time.sleep(0.01)
    items.close()
    assert closed.is_set()
    assert len(got) == 2 + 3


def test_prefetch_raises_errors_in_the_consumer() -> None:
    def numbers() -> Generator[int]:
        yield 1
        raise Rejected("damaged")

    items = prefetch(numbers(), 3)
    assert next(items) == 1
    with pytest.raises(Rejected):
        next(items)
