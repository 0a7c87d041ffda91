"""Loaders in a forked process, where the threads of before are gone."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from photochrom.pipelines import CachedLoader, DaliLoader, LabBatch, ShardSet, SyntheticLoader, TorchLoader

# As a server does that loads before it forks: other threads work meanwhile, and the new process ends by itself.
FORKING_SERVER = """
import os, sys, threading
import numpy as np, photochrom
from photochrom.pipelines import DaliLoader

model, image = photochrom.load("small-l2"), np.zeros((600, 64, 3), np.uint8)
loader = DaliLoader(sys.argv[1], batch_size=2, size=32, train=True)
next(iter(loader))
model.colorize(image)  # imports: a thread that imports holds locks of Python
errors, done = [], threading.Event()

def work():
    try:
        while not done.is_set():
            model.colorize(image)
    except Exception as error:
        errors.append(error)

threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
for thread in threads:
    thread.start()
for uses_loader in (False, True):
    child = os.fork()
    if not child:
        model.colorize(image)
        uses_loader and next(iter(loader))
        sys.exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
done.set()
for thread in threads:
    thread.join()
assert not errors, errors
"""


def contents(batches: Any) -> list[tuple[list[int], float, float]]:
    """Returns the samples of each batch and sums of its pixels."""

    def content(batch: LabBatch) -> tuple[list[int], float, float]:
        return batch.index.tolist(), float(batch.L.double().sum()), float(batch.ab.double().sum())

    return [content(batch) for batch in batches]


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("make", [DaliLoader, TorchLoader, CachedLoader, SyntheticLoader])
def test_a_loader_goes_on_in_a_forked_process(make: Any, train: bool, shards: ShardSet, call_in_fork: Any) -> None:
    """In the middle of an iteration, with batches ahead, and in a new one; and in the process that forked."""
    loader = make(shards, batch_size=2, size=64, train=train, threads=2)
    batches = iter(loader)
    next(batches)
    there = call_in_fork(lambda: (torch.get_num_threads(), contents(batches), contents(loader)))
    assert there == (1, contents(batches), contents(loader))


@pytest.mark.slow
def test_a_process_forks_while_its_threads_work(shards: ShardSet) -> None:
    command = [sys.executable, "-c", FORKING_SERVER, str(shards.root)]
    subprocess.run(command, check=True, timeout=120)
