"""A SimPy resource that its users share fairly at every moment, such as a disk or the cores of a node."""

import math
from dataclasses import dataclass

from simpy import Environment, Event

_EPSILON = 1e-9  # seconds of work that count as done, against rounding


@dataclass(slots=True, eq=False)
class _Job:
    done: Event
    left: float
    width: float
    speed: float = 0.0


class SharedResource:
    """A capacity in units per second that jobs share fairly, none taking more than its width."""

    def __init__(self, env: Environment, capacity: float) -> None:
        self._env, self._capacity = env, capacity
        self._jobs: list[_Job] = []
        self._since = 0.0
        self._timer: Event | None = None  # the end of the first job

    def work(self, amount: float, width: float = math.inf) -> Event:
        """Starts a job of `amount` units; returns the event of its end."""
        done = self._env.event()
        if amount == 0 or math.isinf(min(width, self._capacity)):
            return done.succeed()
        self._advance()
        self._jobs.append(_Job(done, amount, width))
        self._share()
        return done

    def _advance(self) -> None:
        passed, self._since = self._env.now - self._since, self._env.now
        for job in self._jobs:
            job.left -= job.speed * passed

    def _share(self) -> None:
        """Divides the capacity among the jobs, and starts a timer for the end of the first."""
        free, waiting = self._capacity, len(self._jobs)
        for job in sorted(self._jobs, key=lambda job: job.width):
            job.speed = min(job.width, free / waiting)
            free, waiting = free - job.speed, waiting - 1
        if self._jobs:
            soonest = min(job.left / job.speed for job in self._jobs)
            self._timer = self._env.timeout(max(0.0, soonest))
            self._timer.callbacks.append(self._finish)

    def _finish(self, timer: Event) -> None:
        if timer is not self._timer:  # a new job has changed the speeds
            return
        self._advance()
        for job in [job for job in self._jobs if job.left <= job.speed * _EPSILON]:
            self._jobs.remove(job)
            job.done.succeed()
        self._share()
