"""Discrete-event simulation of data-parallel training: reading, decoding, steps, and all-reduce in buckets.

Every rank has three processes that read, decode and train, joined by queues. The ranks of a node share its disk and
cores fairly.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from simpy import Container, Environment, Event
from simpy.events import ProcessGenerator

from .shared_resource import SharedResource

_SHARES = ("computing", "data", "others", "reducing")  # of a SimulationResult


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A run on equal machines. All times are in seconds.

    Args:
        nodes: Machines.
        ranks: Devices of a machine; each has a process of the run.
        batch: Photographs on a device in a step.
        segments: Time of the device until each gradient bucket is full: forward and backward to the first bucket, then
            backward from one bucket to the next.
        optimizer: Time of the optimizer, after all buckets are reduced.
        reduce: Time of the all-reduce of each bucket.
        decode: Time of a core to decode a photograph to Lab.
        cores: Cores of a machine.
        threads: Cores that one process decodes on.
        read_bytes: Bytes of a photograph read from the disk.
        disk: Bytes per second that a machine reads.
        prefetch_batches: Batches prefetched by each process, as loader.prefetch_batches.
        on_cores: The devices are the cores: steps, decoding and all-reduce compete for them.
        step_jitter, load_jitter: Standard deviation of the logarithm of the times of steps, and of reading and decoding
            a batch; independent for each step and process.
    """

    nodes: int = 1
    ranks: int = 1
    batch: int
    segments: Sequence[float]
    optimizer: float = 0.0
    reduce: Sequence[float] = ()
    decode: float = 0.0
    cores: float = math.inf
    threads: float = math.inf
    read_bytes: float = 0.0
    disk: float = math.inf
    prefetch_batches: int = 2
    on_cores: bool = False
    step_jitter: float = 0.0
    load_jitter: float = 0.0


@dataclass(frozen=True, kw_only=True)
class SimulationResult:
    """Photographs per second of all devices, and the shares of a device's time.

    Args:
        throughput: Photographs per second.
        computing: Share of the time that a device computes.
        data: Share that it waits for data, its own or the slowest device's.
        others: Share that it waits for the slowest device for other reasons.
        reducing: Share that it waits for all-reduce not hidden by computing.
    """

    throughput: float
    computing: float
    data: float
    others: float
    reducing: float


def simulate(cluster: Cluster, *, steps: int = 40, warm_up: int = 10, seed: int = 0) -> SimulationResult:
    """Simulates `steps` steps after a warm-up; deterministic for a seed."""
    env = Environment()
    run = _Run(env, cluster, warm_up + steps, warm_up, seed)
    env.run()
    span = run.ended[-1] - run.ended[warm_up - 1]
    total = sum(run.spent.values())
    return SimulationResult(
        throughput=steps * cluster.batch * cluster.ranks * cluster.nodes / span,
        **{name: seconds / total for name, seconds in run.spent.items()},
    )


def _jitter(rng: np.random.Generator, jitter: float, number: int) -> list[float]:
    """Returns random factors with mean 1."""
    return np.exp(jitter * rng.standard_normal(number) - jitter**2 / 2).tolist()


class _AllReduce:
    """Reduces buckets in their order, one at a time, each as soon as all ranks have it."""

    def __init__(
        self, env: Environment, reducers: Sequence[SharedResource], seconds: Sequence[float], ranks: int
    ) -> None:
        self._env, self._reducers, self._seconds, self._ranks = env, reducers, seconds, ranks
        self._missing = [ranks] * len(seconds)
        self._complete, self._done = Container(env), Container(env)
        self.completed = 0.0  # time at which the last rank filled a bucket
        self.waited = 0.0  # seconds that this rank had waited for data
        env.process(self._reducing())

    def arrive(self, bucket: int, waited: float) -> None:
        """Notes that a rank, which waited `waited` seconds for its data, has filled a bucket."""
        self._missing[bucket] -= 1
        if not self._missing[bucket]:
            self._missing[bucket] = self._ranks
            self.completed, self.waited = self._env.now, waited
            self._complete.put(1)

    def done(self) -> Event:
        """Returns the event that the last bucket of the step is reduced."""
        return self._done.get(1)

    def _reducing(self) -> ProcessGenerator:
        while True:
            for seconds in self._seconds:
                yield self._complete.get(1)
                yield self._env.all_of([reducer.work(seconds, 1) for reducer in self._reducers])
            self._done.put(self._ranks)


@dataclass
class _Run:
    """The processes of a run, and their times."""

    env: Environment
    cluster: Cluster
    steps: int
    warm_up: int
    seed: int
    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_SHARES, 0.0))
    ended: list[float] = field(default_factory=list)  # end of the all-reduce of each step

    def __post_init__(self) -> None:
        cluster, env = self.cluster, self.env
        number = cluster.nodes * cluster.ranks
        cores = [SharedResource(env, cluster.cores) for _ in range(cluster.nodes)]
        disks = [SharedResource(env, cluster.disk) for _ in range(cluster.nodes)]
        # On CPUs, the all-reduce is work for each rank's core; a network needs no device for it.
        reducers = [SharedResource(env, 1)]
        if cluster.on_cores:
            reducers = [cores[rank // cluster.ranks] for rank in range(number)]
        seconds = cluster.reduce or [0.0] * len(cluster.segments)
        self._all_reduce = _AllReduce(env, reducers, seconds, number)
        for rank in range(number):
            node = rank // cluster.ranks
            self._start(rank, cores[node], disks[node])

    def _start(self, rank: int, cores: SharedResource, disk: SharedResource) -> None:
        env, cluster = self.env, self.cluster
        rng = np.random.default_rng([self.seed, rank])
        device = cores if cluster.on_cores else SharedResource(env, 1)
        places, read = Container(env, init=cluster.prefetch_batches), Container(env)
        free, ready = Container(env, init=cluster.prefetch_batches), Container(env)
        step = _jitter(rng, cluster.step_jitter, self.steps)
        # More batches than steps, so that queues stay full to the end.
        load = _jitter(rng, cluster.load_jitter, self.steps + 2 * cluster.prefetch_batches)
        env.process(self._reading(disk, load, places, read))
        env.process(self._decoding(cores, load, (places, read), (free, ready)))
        env.process(self._training(rank, device, step, free, ready))

    def _reading(self, disk: SharedResource, load: list[float], places: Container, read: Container) -> ProcessGenerator:
        for factor in load:
            yield places.get(1)
            yield disk.work(self.cluster.read_bytes * self.cluster.batch * factor)
            read.put(1)

    def _decoding(
        self,
        cores: SharedResource,
        load: list[float],
        source: tuple[Container, Container],
        to: tuple[Container, Container],
    ) -> ProcessGenerator:
        (places, read), (free, ready) = source, to
        for factor in load:
            yield free.get(1)
            yield read.get(1)
            places.put(1)
            yield cores.work(self.cluster.decode * self.cluster.batch * factor, self.cluster.threads)
            ready.put(1)

    def _training(
        self, rank: int, device: SharedResource, step: list[float], free: Container, ready: Container
    ) -> ProcessGenerator:
        env = self.env
        for number, factor in enumerate(step):
            started = env.now
            yield ready.get(1)
            free.put(1)  # decoding of the next batch starts as this one is taken
            fed = env.now
            for bucket, seconds in enumerate(self.cluster.segments):
                yield device.work(seconds * factor, 1)
                self._all_reduce.arrive(bucket, fed - started)
            computed = env.now
            yield self._all_reduce.done()
            reduced = env.now
            if rank == 0:
                self.ended.append(reduced)
            yield device.work(self.cluster.optimizer * factor, 1)
            if number >= self.warm_up:
                self._add_times(fed - started, computed - fed + env.now - reduced, computed, reduced)

    def _add_times(self, data: float, computing: float, computed: float, reduced: float) -> None:
        others = max(0.0, self._all_reduce.completed - computed)
        starved = min(others, max(0.0, self._all_reduce.waited - data))  # the slowest rank's data was late
        self.spent["data"] += data + starved
        self.spent["computing"] += computing
        self.spent["others"] += others - starved
        self.spent["reducing"] += reduced - computed - others
