"""Predicts a training run on a number of machines, and its bottleneck."""

from dataclasses import dataclass, replace
from typing import Any

from .machines import Machine, Photograph, Precision
from .network import Bucket, NetworkProfile, buckets, segments
from .simulation import Cluster, simulate

STORAGE, DECODING, COMPUTING, REDUCING, SCATTER = "storage", "decoding", "computing", "all-reduce", "scatter"
_STEPS = 30  # of a simulation
_BASE_LATENCY = 8.4e-6  # seconds of an all-reduce at least (NCCL src/graph/tuning.cc, baseLat, ring, simple)


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """Measurements on a machine, in place of the estimates of its file.

    Args:
        step: Seconds of a device for one photograph of a step.
        load: Seconds of one process to load a photograph, with all its threads or on the device.
        threads: Threads of that process.
        on_device: The device's decoder decoded.
        disk: Photographs per second from the disk, if known.
    """

    step: float
    load: float
    threads: int
    on_device: bool
    disk: float | None


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """A network to train for `epochs` on `images` photographs, with `batch` photographs on each device in a step."""

    network: NetworkProfile
    photograph: Photograph
    batch: int
    images: int
    epochs: int = 100
    precision: Precision = "auto"
    grad_compression: bool = False
    ceilings: Ceilings | None = None


def predict(machine: Machine, job: TrainingJob, nodes: int, gpus: int) -> dict[str, Any]:
    """Returns the row of a number of nodes: simulates the run, and again without each resource in turn."""
    cold = cluster(machine, job, nodes, gpus)
    warm = replace(cold, read_bytes=0.0) if in_memory(machine, job) else cold
    result, devices = simulate(warm, steps=_STEPS), nodes * gpus
    throughput, cold_throughput = result.throughput, simulate(cold, steps=_STEPS).throughput
    ideal = devices * job.batch / (sum(cold.segments) + cold.optimizer)
    gains = _gains(warm, throughput)
    return {
        "nodes": nodes,
        "devices": devices,
        "batch": job.batch * devices,
        "rate(img/s)": throughput,
        "ideal(img/s)": ideal,  # of devices that never wait
        "efficiency(%)": 100 * throughput / ideal,
        "mfu(%)": 100 * throughput / devices * job.network.flops / flops_per_second(machine, job.precision)[0],
        "computing(%)": 100 * result.computing,
        "data_wait(%)": 100 * result.data,
        "slowest_wait(%)": 100 * result.others,
        "all_reduce(%)": 100 * result.reducing,
        "cold_rate(img/s)": cold_throughput,
        "epoch(s)": job.images / throughput,
        "run(h)": _seconds(job, nodes, throughput, cold_throughput) / 3600,
        "bottleneck": max(gains, key=lambda name: gains[name]),
        "gains": gains,
    }


def in_memory(machine: Machine, job: TrainingJob) -> bool:
    """True if the set fits into half of a node's memory."""
    return job.images * 1e3 * job.photograph.bytes.value < 1e9 * machine.memory.value / 2


def _seconds(job: TrainingJob, nodes: int, throughput: float, cold_throughput: float) -> float:
    """Returns the expected seconds of all epochs, in which each node reads every photograph from disk once.

    Each of n nodes gets a random share of every epoch, so it has not read a photograph in k epochs with probability
    (1 - 1/n)^k. (Where the set does not fit into memory, the throughputs are the same.)
    """
    warm, cold = job.images / throughput, job.images / cold_throughput
    unread = sum((1 - 1 / nodes) ** epoch for epoch in range(job.epochs))
    return job.epochs * warm + unread * (cold - warm)


def cluster(machine: Machine, job: TrainingJob, nodes: int, gpus: int) -> Cluster:
    """Returns the simulation's input, with all photographs read from the disk."""
    ceilings = job.ceilings
    step = ceilings.step if ceilings else job.network.flops / flops_per_second(machine, job.precision)[1]
    gradient_buckets = list(buckets(job.network.layers))
    to_buckets, optimizer = segments(gradient_buckets, step * job.batch)
    cores, threads, decode = _decoding(machine, job, gpus)
    read_bytes = 1e3 * job.photograph.bytes.value
    return Cluster(
        nodes=nodes,
        ranks=gpus,
        batch=job.batch,
        segments=to_buckets,
        optimizer=optimizer,
        reduce=[_all_reduce(machine, bucket, nodes, gpus, job.grad_compression) for bucket in gradient_buckets],
        decode=decode,
        cores=cores,
        threads=threads,
        read_bytes=read_bytes,
        disk=ceilings.disk * read_bytes if ceilings and ceilings.disk else 1e6 * machine.disk.value,
        on_cores=machine.on_cores,
        step_jitter=machine.step_jitter.value / 100,
        load_jitter=machine.load_jitter.value / 100,
    )


def ring_seconds(
    bytes_: float, nodes: int, per_node: int, bandwidths: tuple[float, float], latencies: tuple[float, float]
) -> float:
    """Returns the seconds of an all-reduce in a ring through all devices that enters and leaves every node once.

    Bandwidths (bytes per second) and latencies (seconds) are those within a node and between nodes. Each link carries
    2 (n - 1) / n of the bytes in 2 (n - 1) steps at the speed of the slowest link, as in NCCL's src/graph/tuning.cc.
    """
    ranks = nodes * per_node
    if ranks == 1:
        return 0.0
    steps, between = 2 * (ranks - 1), 2 * (nodes - 1) if per_node > 1 else 2 * (ranks - 1)
    (link, network), (near, far) = bandwidths, latencies
    slowest = min(link if per_node > 1 else network, network if nodes > 1 else link)
    return _BASE_LATENCY + (steps - between) * near + between * far + steps / ranks * bytes_ / slowest


def _all_reduce(machine: Machine, bucket: Bucket, nodes: int, gpus: int, grad_compression: bool) -> float:
    bandwidths = 1e9 * machine.link.value, 1e9 * machine.network.value
    latencies = 1e-6 * machine.link_latency.value, 1e-6 * machine.network_latency.value
    return ring_seconds(bucket.bytes / (2 if grad_compression else 1), nodes, gpus, bandwidths, latencies)


def flops_per_second(machine: Machine, precision: Precision) -> tuple[float, float]:
    """Returns FLOP/s of a device, its peak and in training. Raises ValueError if the machine's file lacks them."""
    half = machine.half_peak if precision != "fp32" else None
    if precision == "half" and not half:
        raise ValueError(f"machine {machine.name} has no half_peak(TFLOP/s): use --precision fp32, or add it")
    peak, share = (half, machine.half_attained) if half else (machine.fp32_peak, machine.fp32_attained)
    if share is None:
        raise ValueError(f"machine {machine.name} has half_peak(TFLOP/s) without half_attained(%): add it")
    return 1e12 * peak.value, 1e10 * peak.value * share.value


def _decoding(machine: Machine, job: TrainingJob, gpus: int) -> tuple[float, float, float]:
    """Returns the decoding cores of a node, those of one process, and the seconds of a core for a photograph."""
    ceilings, cores = job.ceilings, machine.cores.value
    if ceilings:
        if ceilings.on_device:
            return gpus, 1, ceilings.load
        return cores, cores / gpus, ceilings.load * ceilings.threads
    if job.photograph.on_device and machine.gpu_decode and not machine.on_cores:
        return gpus, 1, job.photograph.size.value / machine.gpu_decode.value
    speed = machine.core_speed.value
    return cores, cores / gpus, 1e-3 * job.photograph.cpu.value / speed


def _gains(cluster: Cluster, throughput: float) -> dict[str, float]:
    """Returns the factor by which throughput rises without each resource."""
    cases = {
        COMPUTING: replace(cluster, segments=[0.0] * len(cluster.segments), optimizer=0.0),
        DECODING: replace(cluster, decode=0.0),
        STORAGE: replace(cluster, read_bytes=0.0),
        REDUCING: replace(cluster, reduce=[0.0] * len(cluster.reduce)),
        SCATTER: replace(cluster, step_jitter=0.0, load_jitter=0.0),
    }
    return {name: simulate(without, steps=_STEPS).throughput / throughput for name, without in cases.items()}
