"""The pieces of a run, each by itself: python -m photochrom.bench.scale.microbenchmarks CONFIG SECONDS CORES BYTES

One process of as many as a launcher starts, on a core of its own: steps on a batch that is there, batches without
steps, and with several processes the all-reduce of BYTES, a list of buckets. The first prints all seconds as JSON.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from ...engine.commands.train import parse
from ...engine.configuration.config import RunConfig
from ...engine.distributed import make_trainer
from ...engine.training.loop import endless
from ...engine.training.run import prepare

_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_WARM_UP = 3
_FEWEST = 3


def main(argv: list[str]) -> None:
    config, seconds, cores, buckets = argv[0], float(argv[1]), json.loads(argv[2]), json.loads(argv[3])
    launched = {name: os.environ.pop(name) for name in _LAUNCHED if name in os.environ}  # each is to train for itself
    rank, number = int(launched.get("RANK", 0)), int(launched.get("WORLD_SIZE", 1))
    os.sched_setaffinity(0, {cores[rank]})
    found = _alone(parse(["--config", config]), seconds)
    if number > 1:
        os.environ.update(launched)
        dist.init_process_group("gloo")
        found = _of_all(found, number)
        found["reduce"] = _reduced(buckets, seconds)
        dist.destroy_process_group()
    if rank == 0:
        print(json.dumps(found))


def _alone(config: RunConfig, seconds: float) -> dict[str, Any]:
    run = prepare(config, make_trainer(config.train), None)
    batches = endless(run.loader)
    batch = next(batches)
    found = {
        "step": _times(lambda: run.trainer.train_step(batch, step=0, lr=run.lr(0)), seconds),
        "load": _times(lambda: next(batches), seconds),
    }
    run.loader.close()
    run.preview.close()
    return found


def _of_all(found: dict[str, Any], number: int) -> dict[str, Any]:
    """The seconds of all processes: one core may be slower than another."""
    each: list[Any] = [None] * number
    dist.all_gather_object(each, found)
    return {name: [seconds for one in each for seconds in one[name]] for name in found}


def _reduced(sizes: list[int], seconds: float) -> list[list[float]]:
    """The seconds that each bucket took, again and again."""
    tensors = [torch.zeros(size // 4) for size in sizes]
    turns = 0
    found: list[list[float]] = [[] for _ in tensors]
    deadline = time.perf_counter() + seconds
    while agreed_more(turns, deadline):
        for tensor, times in zip(tensors, found, strict=True):
            started = time.perf_counter()
            dist.all_reduce(tensor)
            if turns >= _WARM_UP:
                times.append(time.perf_counter() - started)
        turns += 1
    return found


def agreed_more(turns: int, deadline: float) -> bool:
    """Whether all processes go on: until one's time is up."""
    more = torch.tensor(int(turns < _WARM_UP + _FEWEST or time.perf_counter() < deadline))
    dist.all_reduce(more, dist.ReduceOp.MIN)
    return bool(more)


def _times(work: Callable[[], Any], seconds: float) -> list[float]:
    for _ in range(_WARM_UP):  # what was prepared meanwhile does not count
        work()
    found: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(found) < _FEWEST or time.perf_counter() < deadline:
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
