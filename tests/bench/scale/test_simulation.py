"""The simulation against closed forms."""

from dataclasses import replace

import numpy as np
import pytest
from photochrom.bench.scale.simulation import Cluster, simulate

STEP = Cluster(batch=8, segments=[0.2, 0.1], optimizer=0.05)
MANY = replace(STEP, nodes=3, ranks=4)


def throughput(cluster: Cluster) -> float:
    return simulate(cluster).throughput


def test_without_limits_it_is_the_step() -> None:
    result = simulate(STEP)
    assert result.throughput == pytest.approx(8 / 0.35)
    assert (result.computing, result.data, result.others, result.reducing) == pytest.approx((1, 0, 0, 0))
    assert throughput(MANY) == pytest.approx(12 * 8 / 0.35)


def test_decoding_is_bounded_by_cores() -> None:
    result = simulate(replace(MANY, decode=0.4, cores=16))
    assert result.throughput == pytest.approx(3 * 16 / 0.4, rel=1e-6)
    assert result.data == pytest.approx(1 - result.throughput / throughput(MANY), rel=1e-6)


def test_decoding_is_bounded_by_the_threads_of_a_process() -> None:
    assert throughput(replace(MANY, decode=0.1, cores=16, threads=1)) == pytest.approx(12 / 0.1, rel=1e-6)


def test_storage_is_bounded_by_bandwidth() -> None:
    assert throughput(replace(MANY, read_bytes=100, disk=1000)) == pytest.approx(3 * 10, rel=1e-6)


def test_the_slowest_resource_hides_the_others() -> None:
    assert throughput(replace(STEP, read_bytes=100, disk=1000, decode=0.2, cores=3)) == pytest.approx(10, rel=1e-6)
    assert throughput(replace(STEP, read_bytes=100, disk=9000, decode=0.2, cores=3)) == pytest.approx(15, rel=1e-6)


def test_all_reduce_after_the_backward_pass_adds_to_the_step() -> None:
    result = simulate(replace(MANY, segments=[0.3], reduce=[0.15]))
    assert result.throughput == pytest.approx(12 * 8 / 0.5)
    assert (result.computing, result.reducing) == pytest.approx((0.7, 0.3))


def test_all_reduce_hides_behind_the_rest_of_the_backward_pass() -> None:
    ready, done = 0.0, 0.0
    segments, reduce = [0.2, 0.1, 0.1, 0.05], [0.02, 0.15, 0.04, 0.03]
    for segment, seconds in zip(segments, reduce, strict=True):
        ready += segment
        done = max(done, ready) + seconds
    result = simulate(replace(MANY, segments=segments, reduce=reduce))
    assert result.throughput == pytest.approx(12 * 8 / (done + 0.05))
    assert result.reducing == pytest.approx((done - ready) / (done + 0.05))


def test_on_a_cpu_all_times_add_up() -> None:
    alone = replace(STEP, decode=0.03, cores=1, threads=1, on_cores=True)
    assert throughput(alone) == pytest.approx(8 / (0.35 + 8 * 0.03), rel=1e-6)
    both = replace(alone, ranks=2, cores=2, reduce=[0.04, 0.06])
    assert throughput(both) == pytest.approx(16 / (0.35 + 8 * 0.03 + 0.1), rel=1e-6)


def test_all_devices_wait_for_the_slowest() -> None:
    cluster = replace(MANY, segments=[0.3], optimizer=0.0, step_jitter=0.1)
    result = simulate(cluster, steps=400)
    normal = np.random.default_rng(1).standard_normal((20_000, 12))
    slowest = float(np.exp(0.1 * normal - 0.005).max(axis=1).mean())
    assert result.throughput == pytest.approx(12 * 8 / 0.3 / slowest, rel=0.01)
    assert result.others == pytest.approx(1 - 1 / slowest, rel=0.05)


def test_waiting_for_a_device_without_data_counts_as_data() -> None:
    result = simulate(replace(MANY, decode=0.5, cores=16, load_jitter=0.2), steps=100)
    assert result.data > 0.5
    assert result.others < 0.01


def test_prefetched_batches_smooth_jitter() -> None:
    scattered = replace(STEP, decode=0.04, cores=1, load_jitter=0.5)
    assert throughput(replace(scattered, prefetch_batches=1)) < throughput(replace(scattered, prefetch_batches=8)) <= 25


def test_a_simulation_repeats_its_result() -> None:
    cluster = replace(MANY, step_jitter=0.1, load_jitter=0.1, decode=0.4, cores=16)
    assert simulate(cluster) == simulate(cluster)


@pytest.mark.parametrize("limits", [{}, {"decode": 0.5, "cores": 16}, {"read_bytes": 100, "disk": 1000}])
def test_more_nodes_are_never_slower_where_all_reduce_is_free(limits: dict[str, float]) -> None:
    throughputs = [
        throughput(replace(STEP, nodes=nodes, ranks=2, step_jitter=0.05, **limits)) for nodes in (1, 2, 4, 8)
    ]  # type: ignore[arg-type]
    assert throughputs == sorted(throughputs)


def test_shares_are_of_the_whole_time() -> None:
    result = simulate(replace(MANY, decode=0.05, cores=16, reduce=[0.1, 0.1], step_jitter=0.1, load_jitter=0.1))
    assert result.computing + result.data + result.others + result.reducing == pytest.approx(1)
    assert min(result.computing, result.data, result.others, result.reducing) >= 0
