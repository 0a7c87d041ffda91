"""From a machine and a run to what a number of such machines make of it, and what would help."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from .machines import Machine
from .network import Bucket, NetworkProfile, buckets, segments
from .photographs import Photograph
from .simulation import Cluster, SimulationResult, simulate

Precision = Literal["auto", "half", "fp32"]

STORAGE, DECODING, COMPUTING, REDUCING, SCATTER = "storage", "decoding", "computing", "all-reduce", "scatter"
_NOTHING = 1e-3  # share of the time: what waits no longer than that cannot be relieved
_BASE = 8.4e-6  # seconds that an all-reduce takes at least (NCCL src/graph/tuning.cc, baseLat, ring, simple)


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What was measured on a machine, where its file only estimates.

    Seconds of a device for a photograph's step; and where they were measured: seconds that one process takes to make a
    photograph ready, of all its cores or, `on_device`, of the device's decoder, the threads that it had, and
    photographs per second from the disk.
    """

    step: float
    ready: float | None = None
    threads: int = 1
    on_device: bool = False
    disk: float | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """What is trained, and on which set: `images` photographs, each device learning from `batch` at a step."""

    network: NetworkProfile
    photograph: Photograph
    batch: int
    images: int
    precision: Precision = "auto"
    grad_compression: bool = False
    prefetch_batches: int = 2
    ceilings: Ceilings | None = None


@dataclass(frozen=True, kw_only=True)
class Point:
    """What so many nodes come to: by what factor each resource, were it free, would raise the rate, and which most.

    `rate` and `outcome` are those of a set that is in memory if it fits, `cold` the rate while all is read from the
    disk, `ideal` what the devices would do that never wait, `mfu` which share of their peak they use.
    """

    nodes: int
    devices: int
    outcome: SimulationResult
    cold: float
    ideal: float
    mfu: float
    gains: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return self.outcome.rate

    @property
    def bottleneck(self) -> str:
        """The resource whose relief would gain most."""
        return max(self.gains, key=lambda name: self.gains[name])


def predict(
    machine: Machine, job: TrainingJob, nodes: int, gpus: int, *, seed: int = 0, steps: int = 30, relieve: bool = True
) -> Point:
    """Simulates the run on so many nodes, then again with each resource free in turn."""
    cold = cluster(machine, job, nodes, gpus)
    warm = replace(cold, read_bytes=0.0) if in_memory(machine, job) else cold
    outcome = simulate(warm, steps=steps, seed=seed)
    reads = warm if warm is cold or cold.disk == math.inf else cold
    return Point(
        nodes=nodes,
        devices=nodes * gpus,
        outcome=outcome,
        cold=outcome.rate if reads is warm else simulate(reads, steps=steps, seed=seed).rate,
        ideal=nodes * gpus * job.batch / (sum(cold.segments) + cold.optimizer),
        mfu=outcome.rate / (nodes * gpus) * job.network.flops / arithmetic(machine, job.precision)[0],
        gains=_gains(warm, outcome, steps, seed) if relieve else {},
    )


def in_memory(machine: Machine, job: TrainingJob) -> bool:
    """Whether a node keeps the set in memory once it has read it."""
    return job.images * 1e3 * job.photograph.bytes.value < 1e9 * machine.memory.value / 2


def seconds(point: Point, machine: Machine, job: TrainingJob, epochs: int) -> float:
    """Time of so many epochs. In each a node reads what it has not had yet, in the mean.

    Of n nodes, each has a share of every epoch that is drawn anew: a photograph has not come to it in k epochs with
    probability (1 - 1/n)^k.
    """
    warm, cold = job.images / point.rate, job.images / point.cold
    if not in_memory(machine, job):
        return epochs * cold
    unread = sum((1 - 1 / point.nodes) ** epoch for epoch in range(epochs))
    return epochs * warm + unread * (cold - warm)


def cluster(machine: Machine, job: TrainingJob, nodes: int, gpus: int) -> Cluster:
    """The run as the simulation takes it, with all photographs still on the disk."""
    ceilings = job.ceilings
    step = ceilings.step if ceilings else job.network.flops / arithmetic(machine, job.precision)[1]
    found = list(buckets(job.network.layers))
    to_buckets, optimizer = segments(found, step * job.batch)
    cores, threads, decode = _decoding(machine, job, gpus)
    read_bytes = 1e3 * job.photograph.bytes.value
    return Cluster(
        nodes=nodes,
        ranks=gpus,
        batch=job.batch,
        segments=to_buckets,
        optimizer=optimizer,
        reduce=[_all_reduce(machine, bucket, nodes, gpus, job.grad_compression) for bucket in found],
        decode=decode,
        cores=cores,
        threads=threads,
        read_bytes=read_bytes,
        disk=ceilings.disk * read_bytes if ceilings and ceilings.disk else 1e6 * machine.disk.value,
        prefetch_batches=job.prefetch_batches,
        on_cores=machine.on_cores,
        step_jitter=machine.step_jitter.value / 100,
        load_jitter=machine.load_jitter.value / 100,
    )


def ring_seconds(
    bytes_: float, nodes: int, per_node: int, bandwidths: tuple[float, float], latencies: tuple[float, float]
) -> float:
    """Seconds of an all-reduce in a ring through all devices, which enters and leaves every node once.

    Bandwidths in bytes per second and latencies in seconds are those within nodes and between them. Each link carries
    2 (n - 1) / n of the bytes in 2 (n - 1) steps, as fast as the slowest of them, as in NCCL's src/graph/tuning.cc.
    """
    ranks = nodes * per_node
    if ranks == 1:
        return 0.0
    steps, between = 2 * (ranks - 1), 2 * (nodes - 1) if per_node > 1 else 2 * (ranks - 1)
    (link, network), (near, far) = bandwidths, latencies
    slowest = min(link if per_node > 1 else network, network if nodes > 1 else link)
    return _BASE + (steps - between) * near + between * far + steps / ranks * bytes_ / slowest


def _all_reduce(machine: Machine, bucket: Bucket, nodes: int, gpus: int, grad_compression: bool) -> float:
    bandwidths = 1e9 * machine.link.value, 1e9 * machine.network.value
    latencies = 1e-6 * machine.link_latency.value, 1e-6 * machine.network_latency.value
    return ring_seconds(bucket.bytes / (2 if grad_compression else 1), nodes, gpus, bandwidths, latencies)


def arithmetic(machine: Machine, precision: Precision) -> tuple[float, float]:
    """Operations per second of a device, by its maker and in training. Raises ValueError where its file has none."""
    half = machine.half_peak if precision != "fp32" else None
    if precision == "half" and not half:
        raise ValueError(f"machine {machine.name} has no half_peak(TFLOP/s): use --precision fp32, or add it")
    peak, share = (half, machine.half_attained) if half else (machine.fp32_peak, machine.fp32_attained)
    if share is None:
        raise ValueError(f"machine {machine.name} has half_peak(TFLOP/s) without half_attained(%): add it")
    return 1e12 * peak.value, 1e10 * peak.value * share.value


def _decoding(machine: Machine, job: TrainingJob, gpus: int) -> tuple[float, float, float]:
    """Cores of a node, those that one process decodes on, and seconds of one for a photograph."""
    ceilings, cores = job.ceilings, machine.cores.value
    if ceilings and ceilings.ready is not None:
        if ceilings.on_device:
            return gpus, 1, ceilings.ready
        return cores, cores / gpus, ceilings.ready * ceilings.threads
    decodes = job.photograph.on_device
    if decodes and machine.gpu_decode and not machine.on_cores:
        return gpus, 1, job.photograph.size.value / machine.gpu_decode.value
    speed = machine.core_speed.value
    return cores, cores / gpus, 1e-3 * job.photograph.cpu.value / speed


def _gains(cluster: Cluster, outcome: SimulationResult, steps: int, seed: int) -> dict[str, float]:
    """By what factor the rate rises when a resource takes no time; what nobody waits for is not simulated."""
    waits_for_data = outcome.data > _NOTHING or cluster.on_cores
    waits_for_others = outcome.others + outcome.reducing > _NOTHING or cluster.on_cores
    free: Sequence[tuple[str, bool, Cluster]] = [
        (COMPUTING, True, replace(cluster, segments=[0.0] * len(cluster.segments), optimizer=0.0)),
        (DECODING, waits_for_data, replace(cluster, decode=0.0)),
        (STORAGE, waits_for_data and cluster.read_bytes > 0, replace(cluster, read_bytes=0.0)),
        (REDUCING, waits_for_others and any(cluster.reduce), replace(cluster, reduce=[0.0] * len(cluster.reduce))),
        (SCATTER, waits_for_others or waits_for_data, replace(cluster, step_jitter=0.0, load_jitter=0.0)),
    ]
    return {
        name: simulate(relieved, steps=steps, seed=seed).rate / outcome.rate if matters else 1.0
        for name, matters, relieved in free
    }
