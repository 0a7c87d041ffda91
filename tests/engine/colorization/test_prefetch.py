import threading
import time
from collections.abc import Generator

import pytest
from photochrom.engine.colorization.prefetch import Budget, Cancelled, Reserve, ahead, overlapped
from photochrom.pipelines.imaging.decode import Rejected


class Ledger:
    """Bytes that are taken, the most there were, and where each step ran."""

    def __init__(self) -> None:
        self.held, self.most, self.lock = 0, 0, threading.Lock()

    def add(self, amount: int) -> None:
        with self.lock:
            self.held += amount
            self.most = max(self.most, self.held)


@pytest.mark.parametrize("sizes", [[10] * 40, [10, 250, 10, 10, 250, 99, 1] * 4, [250] * 5])
def test_all_is_done_within_the_memory(sizes: list[int]) -> None:
    """What needs more than there is goes alone; nothing waits for ever."""
    ledger = Ledger()

    def read(size: int, reserve: Reserve) -> int:
        reserve(size)
        ledger.add(size)
        time.sleep(0.001)
        return size

    def write(job: int, size: int, made: int) -> int:
        time.sleep(0.002)
        ledger.add(-size)
        return made

    settings = {"together": 3, "threads": 4, "memory": 100}
    done = list(overlapped(sizes, read=read, work=lambda some: [2 * it for it in some], write=write, **settings))
    assert sorted(done) == sorted((size, 2 * size) for size in sizes)
    assert ledger.most <= max(100, *sizes)
    assert ledger.held == 0


def test_the_rejected_do_not_hold_up_the_others() -> None:
    def read(job: int, reserve: Reserve) -> int:
        if job % 3 == 0:
            raise Rejected("before its size was known")
        reserve(60)
        if job % 3 == 1:
            raise Rejected("after")
        return job

    def write(job: int, picture: int, made: int) -> str:
        if job == 8:
            raise Rejected("no place")
        return "done"

    settings = {"together": 2, "threads": 3, "memory": 100}
    done = dict(overlapped(range(30), read=read, work=list, write=write, **settings))
    reasons = {job: it.reason if isinstance(it, Rejected) else it for job, it in done.items()}
    assert reasons == {
        job: ["before its size was known", "after", "no place" if job == 8 else "done"][job % 3] for job in range(30)
    }


def test_reading_and_writing_overlap_with_the_work() -> None:
    """The network has the second while the first is written and the third is read: each waits for the other two."""
    together = threading.Barrier(3, timeout=20)

    def read(job: int, reserve: Reserve) -> int:
        if job == 2:
            together.wait()
        return job

    def work(some: list[int]) -> list[int]:
        if 1 in some:
            together.wait()
        return some

    def write(job: int, read: int, made: int) -> int:
        if job == 0:
            together.wait()
        return job

    done = overlapped(range(3), read=read, work=work, write=write, together=1, threads=2, memory=100)
    assert sorted(job for job, _ in done) == [0, 1, 2]


@pytest.mark.parametrize("where", ["read", "work", "write"])
def test_other_errors_end_it_all_and_every_thread(where: str) -> None:
    def fail(step: str, result: object) -> object:
        if step == where:
            raise OSError(28, "No space left on device")
        return result

    def read(job: int, reserve: Reserve) -> object:
        reserve(80)  # so that others wait
        return fail("read", job)

    before = threading.active_count()
    with pytest.raises(OSError, match="No space left"):
        list(
            overlapped(
                range(20),
                read=read,
                work=lambda some: [fail("work", it) for it in some],
                write=lambda *_: fail("write", None),
                together=2,
                threads=3,
                memory=100,
            )
        )
    assert threading.active_count() == before


def test_a_closed_budget_sends_away_who_waits() -> None:
    budget = Budget(100)
    budget.take(0, 90)
    caught: list[Exception] = []

    def wait() -> None:
        try:
            budget.take(1, 20)
        except Cancelled as stopped:
            caught.append(stopped)

    thread = threading.Thread(target=wait)
    thread.start()
    budget.close()
    thread.join(5)
    assert len(caught) == 1


def test_ahead_gets_what_is_next_and_stops_with_who_asks() -> None:
    got: list[int] = []
    closed = threading.Event()

    def numbers() -> Generator[int]:
        try:
            for number in range(1000):
                got.append(number)
                yield number
        finally:
            closed.set()

    items = ahead(numbers(), 3)
    assert [next(items), next(items)] == [0, 1]
    limit = time.monotonic() + 20
    while len(got) < 2 + 3 + 1 and time.monotonic() < limit:  # in the queue, and one in hand
        time.sleep(0.01)
    items.close()
    assert closed.is_set()
    assert len(got) == 2 + 3 + 1


def test_ahead_hands_errors_on() -> None:
    def numbers() -> Generator[int]:
        yield 1
        raise Rejected("damaged")

    items = ahead(numbers(), 3)
    assert next(items) == 1
    with pytest.raises(Rejected):
        next(items)
