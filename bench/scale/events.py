"""Discrete events: a clock, processes that say what they wait for, and what they share.

A process is a generator of effects. What is shared, a disk or cores, is shared fairly among those that work at that
moment.
"""

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from itertools import count

_INSTANT = 1e-9  # seconds of work that count as done, for what rounding leaves

Resume = Callable[[], None]
Effect = Callable[[Resume], None]  # begins something, and sees to it that Resume is called at its end
Process = Generator[Effect, None, None]


class World:
    """The clock, and what is to happen when."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Resume]] = []
        self._numbers = count()  # of two events at the same time, the one planned first comes first

    def at(self, time: float, do: Resume) -> None:
        heappush(self._events, (time, next(self._numbers), do))

    def start(self, process: Process) -> None:
        def resume() -> None:
            effect = next(process, None)
            if effect:
                effect(resume)

        self.at(self.now, resume)

    def run(self) -> None:
        """Until nothing more is to happen."""
        while self._events:
            self.now, _, do = heappop(self._events)
            do()


@dataclass(slots=True)
class _Job:
    left: float
    width: float
    resume: Resume
    speed: float = 0.0


class Shared:
    """A capacity in units per second that all jobs share fairly, none taking more than its width."""

    def __init__(self, world: World, capacity: float) -> None:
        self._world, self._capacity = world, capacity
        self._jobs: list[_Job] = []
        self._since = 0.0
        self._plan = 0  # number of the one that holds

    def work(self, amount: float, width: float = math.inf) -> Effect:
        def begin(resume: Resume) -> None:
            if amount == 0 or math.isinf(min(width, self._capacity)):
                self._world.at(self._world.now, resume)
                return
            self._advance()
            self._jobs.append(_Job(amount, width, resume))
            self._share()

        return begin

    def _advance(self) -> None:
        passed, self._since = self._world.now - self._since, self._world.now
        for job in self._jobs:
            job.left -= job.speed * passed

    def _share(self) -> None:
        """Divides the capacity anew, and plans for the first job that ends so."""
        self._plan += 1
        if not self._jobs:
            return
        free, waiting = self._capacity, len(self._jobs)
        for job in sorted(self._jobs, key=lambda job: job.width):
            job.speed = min(job.width, free / waiting)
            free, waiting = free - job.speed, waiting - 1
        soonest = min(job.left / job.speed for job in self._jobs)
        self._world.at(self._world.now + max(0.0, soonest), partial(self._finish, self._plan))

    def _finish(self, plan: int) -> None:
        if plan != self._plan:  # somebody has come since, and all ends later
            return
        self._advance()
        done = [job for job in self._jobs if job.left <= job.speed * _INSTANT]
        self._jobs = [job for job in self._jobs if job.left > job.speed * _INSTANT]
        self._share()
        for job in done:
            job.resume()


class Own:
    """What nobody else works on."""

    def __init__(self, world: World) -> None:
        self._world = world

    def work(self, seconds: float, width: float = 1) -> Effect:
        world = self._world
        return lambda resume: world.at(world.now + seconds, resume)


class Tokens:
    """A number of things of which each taker waits for one: free places in a queue, or what lies in it."""

    def __init__(self, world: World, number: int = 0) -> None:
        self._world, self._number = world, number
        self._takers: list[Resume] = []

    def give(self, number: int = 1) -> None:
        self._number += number
        while self._number and self._takers:
            self._number -= 1
            self._world.at(self._world.now, self._takers.pop(0))

    def take(self, resume: Resume) -> None:
        """An effect: ends when there is one for who asks."""
        self._takers.append(resume)
        self.give(0)


def together(effects: Sequence[Effect]) -> Effect:
    """All of them at once; ends with the last."""

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
