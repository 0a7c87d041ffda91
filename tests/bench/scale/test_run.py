"""Predictions for runs of 1 and 2 processes on this machine's cores, against `photochrom train`.

The pieces of a run are measured alone, by as many processes at a time as the run has: a step, a batch, and the
all-reduce of each gradient bucket. The simulation puts them together. `python test_run.py CONFIG SECONDS BUCKETS` is
one such process. `pytest -m slow tests/bench/scale/test_run.py -s` prints the throughputs.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from photochrom.bench.scale.network import Bucket, buckets, profile, segments, vgg
from photochrom.bench.scale.simulation import Cluster, simulate
from photochrom.engine.commands.train import parse
from photochrom.engine.configuration.config import RunConfig, save_yaml
from photochrom.engine.configuration.registry import build_model
from photochrom.engine.distributed import make_training_accelerator
from photochrom.engine.training.loop import endless
from photochrom.engine.training.run import prepare
from photochrom.pipelines import ShardSet

WARM_UP, MIN_TIMES = 3, 3
LAUNCHER_ENV = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

Pieces = dict[str, Any]  # seconds by name: step, load, and of several processes reduce, a list for each bucket


def main(config: str, seconds: str, bucket_bytes: str) -> None:
    launcher = {name: os.environ.pop(name) for name in LAUNCHER_ENV if name in os.environ}  # each trains for itself
    rank, world_size = int(launcher.get("RANK", 0)), int(launcher.get("WORLD_SIZE", 1))
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    pieces = measure_alone(parse(["--config", config]), float(seconds))
    if world_size > 1:
        os.environ.update(launcher)
        dist.init_process_group("gloo")
        of_ranks: list[Any] = [None] * world_size
        dist.all_gather_object(of_ranks, pieces)  # one core may be slower than another
        pieces = {name: [value for one in of_ranks for value in one[name]] for name in pieces}
        pieces["reduce"] = [times(dist.all_reduce, torch.zeros(size // 4)) for size in json.loads(bucket_bytes)]
        dist.destroy_process_group()
    if rank == 0:
        print(json.dumps(pieces))


def measure_alone(config: RunConfig, seconds: float) -> Pieces:
    run = prepare(config, make_training_accelerator(config.train), None)
    batches = endless(run.loader)
    batch = next(batches)
    pieces = {
        "step": times(lambda: run.trainer.train_step(batch, step=0, lr=run.lr(0)), seconds=seconds),
        "load": times(lambda: next(batches), seconds=seconds),
    }
    run.loader.close()
    run.preview.close()
    return pieces


def times(function: Callable[..., Any], *arguments: Any, seconds: float = 0.0) -> list[float]:
    values: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(values) < WARM_UP + MIN_TIMES or time.perf_counter() < deadline:
        started = time.perf_counter()
        function(*arguments)
        values.append(time.perf_counter() - started)
    return values[WARM_UP:]


def launch(words: Sequence[str], ranks: int) -> str:
    """Returns the output of a command, run by `ranks` processes on as many cores."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    cores = sorted(os.sched_getaffinity(0))[:ranks]
    return subprocess.run(
        [sys.executable, *launcher, *words],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    ).stdout


def measured(config: RunConfig, ranks: int, steps: int, out: Path) -> float:
    """Returns images per second of `photochrom train`, each process with a batch of the configured size."""
    train = replace(config.train, batch_size=config.train.batch_size * ranks, steps=5 * steps)
    file = out.with_suffix(".yaml")
    save_yaml(replace(config, out=out, train=train, log=replace(config.log, every=steps)), file)
    launch(["-m", "photochrom", "train", "--config", str(file)], ranks)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return statistics.median(line["throughput(img/s)"] for line in lines[1:] if "throughput(img/s)" in line)


def predicted(batch: int, ranks: int, gradient_buckets: Sequence[Bucket], pieces: Pieces) -> float:
    """Returns images per second of processes that have a core each, which steps, loading and all-reduce share."""
    step, load = (statistics.fmean(pieces[name]) for name in ("step", "load"))
    to_buckets, optimizer = segments(gradient_buckets, step)
    cluster = Cluster(
        ranks=ranks,
        batch=batch,
        segments=to_buckets,
        optimizer=optimizer,
        reduce=[statistics.fmean(values) for values in pieces.get("reduce", [])],
        decode=load / batch,
        cores=ranks,
        threads=1,
        on_cores=True,
        step_jitter=statistics.stdev(map(log, pieces["step"])),
        load_jitter=statistics.stdev(map(log, pieces["load"])),
    )
    return simulate(cluster, steps=100).throughput


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_is_predicted_from_its_pieces(ranks: int, shards: ShardSet, tmp_path: Path) -> None:
    """The bounds are wide, and there is a second try: the speed of a machine varies by a third within seconds."""
    if len(os.sched_getaffinity(0)) < ranks:
        pytest.skip(f"needs {ranks} cores")
    options = ["--data.size", "32", "--model.width", "0.125", "--train.batch_size", "4", "--train.device", "cpu"]
    options += ["--loader.threads", "1", "--log.preview_every", "100000", "--checkpoint.every", "100000"]
    config = parse(["--config", "demo", "--data.train", str(shards.root), "--out", str(tmp_path / "unused"), *options])
    config = replace(config, log=replace(config.log, trackers=[], validate_every=100_000))
    gradient_buckets = list(buckets(profile(build_model(config.model), config.data.size).layers))
    save_yaml(config, tmp_path / "config.yaml")
    sizes = json.dumps([bucket.bytes for bucket in gradient_buckets])
    ratios = []
    for number in range(2):
        pieces = json.loads(launch([__file__, str(tmp_path / "config.yaml"), "1", sizes], ranks).splitlines()[-1])
        expected = predicted(4, ranks, gradient_buckets, pieces)
        throughput = measured(config, ranks, 10, tmp_path / f"run{number}")
        print(f"{ranks} processes: predicted {expected:.1f} images/s, measured {throughput:.1f}")
        ratios.append(expected / throughput)
        if 0.6 < ratios[-1] < 1.7:
            return
    raise AssertionError(ratios)


def test_a_prediction_is_the_sum_of_its_pieces() -> None:
    gradient_buckets = list(buckets(vgg(0.0625, 64).layers))
    pieces: Pieces = {"step": [0.3] * 4, "load": [0.05] * 4}
    assert predicted(8, 1, gradient_buckets, pieces) == pytest.approx(8 / (0.3 + 0.05), rel=0.01)
    assert predicted(8, 2, gradient_buckets, pieces) == pytest.approx(16 / (0.3 + 0.05), rel=0.01)
    pieces["reduce"] = [[0.1 / len(gradient_buckets)] * 4 for _ in gradient_buckets]
    assert predicted(8, 2, gradient_buckets, pieces) == pytest.approx(16 / (0.3 + 0.05 + 0.1), rel=0.01)


if __name__ == "__main__":
    main(*sys.argv[1:])
