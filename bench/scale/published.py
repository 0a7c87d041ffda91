"""The simulation held against scaling that others have measured and published: its losses, too."""

import statistics
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.table import Table

from ..common.results import Found, figures
from . import drawing
from .machines import load_machine
from .network import Layer, NetworkProfile, buckets, segments
from .prediction import ring_seconds
from .simulation import Cluster, simulate

_LIKE = "v100-n1-highmem-16"  # whose latencies and scatter hold for all


def compare(seed: int = 0) -> Iterator[dict[str, Any]]:
    """A row for each published rate: predicted from one device's, published, and by how much the prediction is off."""
    known = yaml.safe_load((files("photochrom.bench.scale") / "published.yaml").read_text())
    machine = load_machine(_LIKE)
    for case in known["cases"]:
        network, joined = NETWORKS[case["network"]](), known["machines"][case["machine"]]
        found = list(
            buckets(network.layers) if network.flops else buckets(network.layers, first=network.gradient_bytes)
        )
        to_buckets, optimizer = segments(found, case["batch"] / case["alone"])
        for shape, published in case["rates"].items():
            nodes, gpus = map(int, shape.split("x"))
            latencies = 1e-6 * machine.link_latency.value, 1e-6 * machine.network_latency.value
            bandwidths = 1e9 * joined["link"], 1e9 * joined["network"]
            run = Cluster(
                nodes=nodes,
                ranks=gpus,
                batch=case["batch"],
                segments=to_buckets,
                optimizer=optimizer,
                reduce=[ring_seconds(each.bytes, nodes, gpus, bandwidths, latencies) for each in found],
                step_jitter=machine.step_jitter.value / 100,
            )
            predicted = simulate(run, seed=seed).rate
            yield {
                "what": case["name"],
                "devices": shape,
                "one_device(1/s)": case["alone"],
                "predicted(1/s)": predicted,
                "published(1/s)": published,
                "error(%)": 100 * (predicted / published - 1),
                "source": case["source"],
            }


def resnet50() -> NetworkProfile:
    """ResNet-50 at 224 pixels (He et al., CVPR 2016, table 1), a layer for each convolution with its BatchNorm."""
    found = [_convolution(3, 64, 7, 112)]
    c_in = 64
    for blocks, width, side in ((3, 64, 56), (4, 128, 28), (6, 256, 14), (3, 512, 7)):
        for block in range(blocks):
            before = side * (2 if block == 0 and width > 64 else 1)  # the 3x3 convolution halves the sides
            found += [_convolution(c_in, width, 1, before), _convolution(width, width, 3, side)]
            found += [_convolution(width, 4 * width, 1, side)]
            if block == 0:
                found.append(_convolution(c_in, 4 * width, 1, side))
            c_in = 4 * width
    found.append(((4 * 2048 * 1000, 4 * 1000), 2 * 2048 * 1000))
    total = sum(flops for _, flops in found)
    return NetworkProfile(
        flops=3 * total, layers=[Layer(gradients=sizes, share=flops / total) for sizes, flops in found]
    )


def bert() -> NetworkProfile:
    """BERT-base: 110 million parameters (Devlin et al., NAACL 2019), which travel together after the backward pass."""
    return NetworkProfile(flops=0, layers=[Layer(gradients=(4 * 110_000_000,), share=1)])


NETWORKS = {"resnet50": resnet50, "bert": bert}


def _convolution(c_in: int, c_out: int, kernel: int, side: int) -> tuple[tuple[int, ...], int]:
    """Bytes of the gradients of its weight and its BatchNorm, and operations forward."""
    weights = c_in * c_out * kernel**2
    return (4 * weights, 4 * c_out, 4 * c_out), 2 * weights * side**2


def measure(options: Any) -> Found:
    """All comparisons, and how far off they are."""
    rows = list(compare(options.seed))
    errors = [abs(row["error(%)"]) for row in rows]
    within = sum(error <= 10 for error in errors)
    verdict = (
        f"{len(rows)} published rates of 4 to 32 GPUs: the prediction is {statistics.median(errors):.1f} % off in the "
        f"median, {max(errors):.1f} % at most, within 10 % for {within}"
    )
    return figures(options, torch.device("cpu"), rows, verdict)


def show(found: Found) -> Table:
    """A comparison a line."""
    table = Table("", "nodes x GPUs", "one GPU", "predicted", "published", "error", box=None, header_style="bold")
    for row in found["rows"]:
        rates = (f"{row[f'{which}(1/s)']:,.0f}" for which in ("one_device", "predicted", "published"))
        table.add_row(row["what"], row["devices"], *rates, f"{row['error(%)']:+.1f} %")
    return table


def draw(found: Found, path: Path) -> None:
    """Predicted rates over published ones."""
    dots = [
        drawing.Dot(label=row["what"], found=row["published(1/s)"], predicted=row["predicted(1/s)"])
        for row in found["rows"]
    ]
    drawing.draw(dots, path, found="published", unit="images or sequences per second", log=True)
