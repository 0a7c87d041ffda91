"""Simulates data-parallel training step by step: reading, decoding, computing, and all-reduce in buckets.

The ranks of a node share its disk and cores, so their batches of a step are read together, and decoded together. Each
of the stages works ahead of the next as far as prefetching allows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_WARM_UP = 10  # steps


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
        on_cores: The devices are the cores. Those that have no rank decode; if there are none, decoding and all-reduce
            take their time from the steps.
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


def simulate(cluster: Cluster, *, steps: int = 40) -> SimulationResult:
    """Simulates `steps` steps after a warm-up; the same cluster always gives the same result."""
    nodes, ranks, reduce = cluster.nodes, cluster.ranks, cluster.reduce or [0.0] * len(cluster.segments)
    step_jitter, load_jitter = _jitter(cluster, _WARM_UP + steps)
    # On CPUs without a core for decoding, each rank decodes its own batch, and waits for all-reduce.
    shares_cores = cluster.on_cores and cluster.cores <= ranks
    ranks_per_core = ranks / cluster.cores if shares_cores else 1.0
    own_decode = cluster.decode * cluster.batch * load_jitter if shares_cores else 0.0 * load_jitter
    stages = _Stages(cluster, load_jitter, decodes=not shares_cores)
    ended, reduce_ends, spent = np.zeros(nodes * ranks), [], np.zeros((4, nodes * ranks))
    for number in range(_WARM_UP + steps):
        started, fed = ended, np.maximum(ended, stages.batches_ready(number).repeat(ranks))
        stages.take(fed.reshape(nodes, ranks).max(axis=1))
        factor = ranks_per_core * step_jitter[number]
        computed, completed, reduced = fed + ranks_per_core * own_decode[number], 0.0, 0.0
        for segment, seconds in zip(cluster.segments, reduce, strict=True):
            if shares_cores:
                computed = np.maximum(computed, reduced)
            computed = computed + segment * factor
            completed = computed.max()  # by all ranks
            reduced = max(reduced, completed) + seconds
        ended = reduced + cluster.optimizer * factor
        reduce_ends.append(reduced)
        if number >= _WARM_UP:
            data, others = fed - started, completed - computed
            starved = np.minimum(others, np.maximum(0.0, data[computed.argmax()] - data))  # the slowest had no data
            spent += [computed - fed + ended - reduced, data + starved, others - starved, reduced - computed - others]
    computing, data_wait, others_wait, reducing = (spent.sum(axis=1) / spent.sum()).tolist()
    return SimulationResult(
        throughput=steps * cluster.batch * nodes * ranks / (reduce_ends[-1] - reduce_ends[_WARM_UP - 1]),
        computing=computing,
        data=data_wait,
        others=others_wait,
        reducing=reducing,
    )


class _Stages:
    """Reading and decoding of all batches of a node; times are arrays (nodes,).

    Without `decodes`, batches are ready once they are read.
    """

    def __init__(self, cluster: Cluster, jitter: NDArray[np.float64], *, decodes: bool) -> None:
        photographs = cluster.batch * jitter.reshape(-1, cluster.nodes, cluster.ranks).sum(axis=2)
        self._read_seconds = photographs * cluster.read_bytes / cluster.disk
        cores = min(cluster.cores - cluster.on_cores * cluster.ranks, cluster.ranks * cluster.threads)
        self._decode_seconds = photographs * cluster.decode / cores if decodes else 0.0 * photographs
        self._read = self._decoded = np.zeros(cluster.nodes)
        # The stage before begins a batch once this one has begun the batch that is `prefetch_batches` earlier.
        self._decode_starts, self._taken = ([self._read] * cluster.prefetch_batches for _ in range(2))

    def batches_ready(self, number: int) -> NDArray[np.float64]:
        """Returns when each node has decoded its batches of a step."""
        self._read = np.maximum(self._read, self._decode_starts[number]) + self._read_seconds[number]
        start = np.maximum.reduce([self._decoded, self._read, self._taken[number]])
        self._decoded = start + self._decode_seconds[number]
        self._decode_starts.append(start)
        return self._decoded

    def take(self, times: NDArray[np.float64]) -> None:
        """Records when the devices of each node have taken their batches of a step."""
        self._taken.append(times)


def _jitter(cluster: Cluster, steps: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns random factors with mean 1 for the times of steps, and of loading: each (steps, ranks)."""
    generators = [np.random.default_rng([0, rank]) for rank in range(cluster.nodes * cluster.ranks)]
    step, load = (
        np.stack([np.exp(jitter * rng.standard_normal(steps) - jitter**2 / 2) for rng in generators], axis=1)
        for jitter in (cluster.step_jitter, cluster.load_jitter)
    )
    return step, load
