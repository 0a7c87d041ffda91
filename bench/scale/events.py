"""Discrete-event simulation: an environment with a clock, processes, and resources (named as in SimPy).

A process is a generator of effects, each of which it waits for. SimPy's resources are exclusive; a SharedResource here,
such as a disk or the cores of a node, is divided fairly among its users at every moment.
"""

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from itertools import count

_EPSILON = 1e-9  # seconds of work that count as done, against rounding

Resume = Callable[[], None]
Effect = Callable[[Resume], None]  # starts something that calls Resume at its end
Process = Generator[Effect, None, None]


class Environment:
    """The clock and the schedule of events."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Resume]] = []
        self._numbers = count()  # of simultaneous events, the one scheduled first runs first

    def schedule(self, time: float, do: Resume) -> None:
        heappush(self._events, (time, next(self._numbers), do))

    def start(self, process: Process) -> None:
        def resume() -> None:
            effect = next(process, None)
            if effect:
                effect(resume)

        self.schedule(self.now, resume)

    def run(self) -> None:
        """Runs all events."""
        while self._events:
            self.now, _, do = heappop(self._events)
            do()


@dataclass(slots=True)
class _Job:
    left: float
    width: float
    resume: Resume
    speed: float = 0.0


class SharedResource:
    """A capacity in units per second that jobs share fairly, none taking more than its width."""

    def __init__(self, env: Environment, capacity: float) -> None:
        self._env, self._capacity = env, capacity
        self._jobs: list[_Job] = []
        self._since = 0.0
        self._plan = 0  # number of the current plan

    def work(self, amount: float, width: float = math.inf) -> Effect:
        def begin(resume: Resume) -> None:
            if amount == 0 or math.isinf(min(width, self._capacity)):
                self._env.schedule(self._env.now, resume)
                return
            self._advance()
            self._jobs.append(_Job(amount, width, resume))
            self._share()

        return begin

    def _advance(self) -> None:
        passed, self._since = self._env.now - self._since, self._env.now
        for job in self._jobs:
            job.left -= job.speed * passed

    def _share(self) -> None:
        """Divides the capacity among the jobs, and schedules the end of the first."""
        self._plan += 1
        if not self._jobs:
            return
        free, waiting = self._capacity, len(self._jobs)
        for job in sorted(self._jobs, key=lambda job: job.width):
            job.speed = min(job.width, free / waiting)
            free, waiting = free - job.speed, waiting - 1
        soonest = min(job.left / job.speed for job in self._jobs)
        self._env.schedule(self._env.now + max(0.0, soonest), partial(self._finish, self._plan))

    def _finish(self, plan: int) -> None:
        if plan != self._plan:  # a new job has changed the plan
            return
        self._advance()
        done = [job for job in self._jobs if job.left <= job.speed * _EPSILON]
        self._jobs = [job for job in self._jobs if job.left > job.speed * _EPSILON]
        self._share()
        for job in done:
            job.resume()


class Semaphore:
    """A counter whose users wait for it to be positive: the free places in a queue, or its items."""

    def __init__(self, env: Environment, number: int = 0) -> None:
        self._env, self._number = env, number
        self._waiting: list[Resume] = []

    def release(self, number: int = 1) -> None:
        self._number += number
        while self._number and self._waiting:
            self._number -= 1
            self._env.schedule(self._env.now, self._waiting.pop(0))

    def acquire(self, resume: Resume) -> None:
        """Effect that ends once the counter could be decremented."""
        self._waiting.append(resume)
        self.release(0)


def all_of(effects: Sequence[Effect]) -> Effect:
    """Returns an effect that starts all effects, and ends with the last."""

    def begin(resume: Resume) -> None:
        left = len(effects)

        def one() -> None:
            nonlocal left
            left -= 1
            if not left:
                resume()

        for effect in effects:
            effect(one)

    return begin
