"""Data-parallel training as a discrete-event simulation: readers, decoders, steps, and all-reduce in buckets.

Numbers in, numbers out. Every rank has three processes, which read, decode and train, and hand batches on; disks and
cores are shared fairly among the ranks of a node.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .events import Own, Process, Resume, Shared, Tokens, World, together

_SHARES = ("computing", "data", "others", "reducing")  # of an SimulationResult


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A run on `nodes` equal machines with `ranks` devices each; all times are in seconds.

    Args:
        nodes: Machines.
        ranks: Devices of each, with a process of the run on each.
        batch: Photographs that a device learns from in a step.
        segments: Time of the device until each gradient bucket is there: forward, and backward up to the first bucket,
            then backward from one to the next.
        optimizer: Time of the device once all buckets are reduced.
        reduce: Time that the all-reduce of each bucket takes by itself.
        decode: Time of a core to make a photograph ready.
        cores: Of a machine, for all its processes.
        threads: Cores that one process can decode on.
        read_bytes: Bytes of a photograph that come from the disk.
        disk: Bytes per second that a machine reads.
        prefetch_batches: Batches prepared ahead by each process, as loader.prefetch_batches.
        on_cores: The devices are the cores: steps, decoding and all-reduce take them from one another.
        step_jitter, load_jitter: How much the times of steps, and of reading and decoding batches, scatter: standard
            deviation of their logarithm, at each step and process anew.
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
    """Photographs per second of all devices, and what a device does meanwhile, as shares of the time.

    It computes, waits for data, its own or that of the device which is last, waits for that device for other reasons,
    or waits for an all-reduce that computing does not hide.
    """

    rate: float
    computing: float
    data: float
    others: float
    reducing: float


def simulate(cluster: Cluster, *, steps: int = 40, warm_up: int = 10, seed: int = 0) -> SimulationResult:
    """What so many steps come to after those to warm up: the same for the same seed."""
    world = World()
    run = _Run(world, cluster, warm_up + steps, warm_up, seed)
    world.run()
    span = run.ended[-1] - run.ended[warm_up - 1]
    total = sum(run.spent.values())
    return SimulationResult(
        rate=steps * cluster.batch * cluster.ranks * cluster.nodes / span,
        **{name: seconds / total for name, seconds in run.spent.items()},
    )


class _AllReduce:
    """Reduces buckets in their order, one at a time, each as soon as all ranks have it."""

    def __init__(self, world: World, carriers: Sequence[Shared | Own], seconds: Sequence[float], ranks: int) -> None:
        self._world, self._carriers, self._seconds, self._ranks = world, carriers, seconds, ranks
        self._missing = [ranks] * len(seconds)
        self._complete, self._done = Tokens(world), Tokens(world)
        self.completed = 0.0  # when the last rank had its last bucket,
        self.waited = 0.0  # and how long that one had waited for data
        world.start(self._reducing())

    def arrive(self, bucket: int, waited: float) -> None:
        """A rank that has waited so long for its data has this bucket of gradients."""
        self._missing[bucket] -= 1
        if not self._missing[bucket]:
            self._missing[bucket] = self._ranks
            self.completed, self.waited = self._world.now, waited
            self._complete.give()

    def done(self, resume: Resume) -> None:
        """An effect: ends when the step's last bucket is reduced."""
        self._done.take(resume)

    def _reducing(self) -> Process:
        while True:
            for seconds in self._seconds:
                yield self._complete.take
                yield together([carrier.work(seconds, 1) for carrier in self._carriers])
            self._done.give(self._ranks)


@dataclass
class _Run:
    """The processes of a run, and what they have come to."""

    world: World
    cluster: Cluster
    steps: int
    warm_up: int
    seed: int
    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_SHARES, 0.0))
    ended: list[float] = field(default_factory=list)  # when the all-reduce of each step did

    def __post_init__(self) -> None:
        cluster, world = self.cluster, self.world
        number = cluster.nodes * cluster.ranks
        cores = [Shared(world, cluster.cores) for _ in range(cluster.nodes)]
        disks = [Shared(world, cluster.disk) for _ in range(cluster.nodes)]
        # Where the cores carry the buckets, each rank's part of it is work; a network carries them by itself.
        carriers: list[Shared | Own] = [Own(world)]
        if cluster.on_cores:
            carriers = [cores[rank // cluster.ranks] for rank in range(number)]
        seconds = cluster.reduce or [0.0] * len(cluster.segments)
        self._all_reduce = _AllReduce(world, carriers, seconds, number)
        for rank in range(number):
            node = rank // cluster.ranks
            self._start(rank, cores[node], disks[node])

    def _start(self, rank: int, cores: Shared, disk: Shared) -> None:
        world, cluster = self.world, self.cluster
        rng = np.random.default_rng([self.seed, rank])
        device = cores if cluster.on_cores else Own(world)
        places, read = Tokens(world, cluster.prefetch_batches), Tokens(world)
        free, ready = Tokens(world, cluster.prefetch_batches), Tokens(world)
        step = self._scatter(rng, cluster.step_jitter, self.steps)
        load = self._scatter(
            rng, cluster.load_jitter, self.steps + 2 * cluster.prefetch_batches
        )  # to the end as before it
        world.start(self._reading(disk, load, places, read))
        world.start(self._decoding(cores, load, (places, read), (free, ready)))
        world.start(self._training(rank, device, step, free, ready))

    def _scatter(self, rng: np.random.Generator, jitter: float, number: int) -> list[float]:
        """Factors that are 1 in the mean."""
        return np.exp(jitter * rng.standard_normal(number) - jitter**2 / 2).tolist()

    def _reading(self, disk: Shared, load: list[float], places: Tokens, read: Tokens) -> Process:
        for factor in load:
            yield places.take
            yield disk.work(self.cluster.read_bytes * self.cluster.batch * factor)
            read.give()

    def _decoding(
        self, cores: Shared, load: list[float], source: tuple[Tokens, Tokens], to: tuple[Tokens, Tokens]
    ) -> Process:
        (places, read), (free, ready) = source, to
        for factor in load:
            yield free.take
            yield read.take
            places.give()
            yield cores.work(self.cluster.decode * self.cluster.batch * factor, self.cluster.threads)
            ready.give()

    def _training(self, rank: int, device: Shared | Own, step: list[float], free: Tokens, ready: Tokens) -> Process:
        world = self.world
        for number, factor in enumerate(step):
            started = world.now
            yield ready.take
            free.give()  # the next batch is begun as this one is taken
            fed = world.now
            for bucket, seconds in enumerate(self.cluster.segments):
                yield device.work(seconds * factor, 1)
                self._all_reduce.arrive(bucket, fed - started)
            computed = world.now
            yield self._all_reduce.done
            reduced = world.now
            if rank == 0:
                self.ended.append(reduced)
            yield device.work(self.cluster.optimizer * factor, 1)
            if number >= self.warm_up:
                self._tally(fed - started, computed - fed + world.now - reduced, computed, reduced)

    def _tally(self, data: float, computing: float, computed: float, reduced: float) -> None:
        others = max(0.0, self._all_reduce.completed - computed)
        starved = min(others, max(0.0, self._all_reduce.waited - data))  # the last one's data came so much later
        self.spent["data"] += data + starved
        self.spent["computing"] += computing
        self.spent["others"] += others - starved
        self.spent["reducing"] += reduced - computed - others
