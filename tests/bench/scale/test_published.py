"""The simulation against published throughputs of data-parallel training (published.yaml).

`pytest tests/bench/scale/test_published.py -s` prints them; bench/results/cpu/scale-published.json keeps them.
"""

import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml
from photochrom.bench.scale.machines import ORIGINAL_MACHINE, load_machine
from photochrom.bench.scale.network import Layer, NetworkProfile, buckets, segments
from photochrom.bench.scale.prediction import ring_seconds
from photochrom.bench.scale.simulation import Cluster, simulate

PUBLISHED = yaml.safe_load((Path(__file__).parent / "published.yaml").read_text())
MACHINE = load_machine(ORIGINAL_MACHINE)  # whose latencies and jitter are used for all


def conv_bn(c_in: int, c_out: int, kernel: int, side: int) -> tuple[tuple[int, ...], int]:
    """Returns the gradient bytes of a convolution and its BatchNorm, and the forward FLOPs."""
    weights = c_in * c_out * kernel**2
    return (4 * weights, 4 * c_out, 4 * c_out), 2 * weights * side**2


def resnet50() -> NetworkProfile:
    """Returns ResNet-50 at 224 pixels (He et al., CVPR 2016, table 1)."""
    layers = [conv_bn(3, 64, 7, 112)]
    c_in = 64
    for blocks, width, side in ((3, 64, 56), (4, 128, 28), (6, 256, 14), (3, 512, 7)):
        for block in range(blocks):
            before = side * (2 if block == 0 and width > 64 else 1)  # the 3x3 convolution halves the sides
            layers += [conv_bn(c_in, width, 1, before), conv_bn(width, width, 3, side)]
            layers += [conv_bn(width, 4 * width, 1, side)]
            if block == 0:
                layers.append(conv_bn(c_in, 4 * width, 1, side))
            c_in = 4 * width
    layers.append(((4 * 2048 * 1000, 4 * 1000), 2 * 2048 * 1000))
    total = sum(flops for _, flops in layers)
    return NetworkProfile(
        flops=3 * total, layers=[Layer(gradients=sizes, share=flops / total) for sizes, flops in layers]
    )


def bert() -> NetworkProfile:
    """Returns BERT-base: 110 million parameters (Devlin et al., NAACL 2019), reduced together after backward."""
    return NetworkProfile(flops=0, layers=[Layer(gradients=(4 * 110_000_000,), share=1)])


NETWORKS = {"resnet50": resnet50(), "bert": bert()}


def predicted(case: dict[str, Any], nodes: int, gpus: int) -> float:
    """Returns images or sequences per second, from the throughput of one GPU."""
    network, machine = NETWORKS[case["network"]], PUBLISHED["machines"][case["machine"]]
    one_bucket = {} if network.flops else {"first": network.gradient_bytes}
    gradient_buckets = list(buckets(network.layers, **one_bucket))
    to_buckets, optimizer = segments(gradient_buckets, case["batch"] / case["alone"])
    latencies = 1e-6 * MACHINE.link_latency.value, 1e-6 * MACHINE.network_latency.value
    bandwidths = 1e9 * machine["link"], 1e9 * machine["network"]
    cluster = Cluster(
        nodes=nodes,
        ranks=gpus,
        batch=case["batch"],
        segments=to_buckets,
        optimizer=optimizer,
        reduce=[ring_seconds(bucket.bytes, nodes, gpus, bandwidths, latencies) for bucket in gradient_buckets],
        step_jitter=MACHINE.step_jitter.value / 100,
    )
    return simulate(cluster).throughput


def test_published_throughputs_are_predicted() -> None:
    errors: dict[tuple[str, str], float] = {}
    for case in PUBLISHED["cases"]:
        for shape, published in case["rates"].items():
            nodes, gpus = map(int, shape.split("x"))
            error = 100 * (predicted(case, nodes, gpus) / published - 1)
            print(f"{case['name']}, {shape} GPUs: {published:,.0f}/s published, predicted {error:+.1f} %")
            errors[case["name"], shape] = abs(error)
    assert len(errors) == 24
    assert statistics.median(errors.values()) == pytest.approx(1.7, abs=0.05)  # as docs/performance.md has it
    assert max(errors.values()) == pytest.approx(16.1, abs=0.05)
    assert sum(error <= 10 for error in errors.values()) == 22
    assert all("mixed precision" in name for (name, _), error in errors.items() if error > 10)


def test_resnet50_is_as_in_torchvision() -> None:
    assert resnet50().gradient_bytes == 4 * 25_557_032
    assert resnet50().flops / 6 == pytest.approx(4.09e9, rel=1e-3)
