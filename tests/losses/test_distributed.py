"""The mean of two processes' losses, and of their gradients, is the loss and the gradient of the whole batch."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
import torch.distributed as dist
from photochrom.losses import L2, ColorLoss, Focal, RebalancedCrossEntropy, SmoothL1, ab_bins, focal
from photochrom.models import ColorPrediction
from photochrom.pipelines import LabBatch
from torch import Tensor


def losses() -> dict[str, ColorLoss]:
    cross_entropy = RebalancedCrossEntropy(prior=torch.arange(1.0, 314).tolist(), skip_grey=True)
    return {
        "L2": L2(),
        "SmoothL1": SmoothL1(),
        "RebalancedCrossEntropy": cross_entropy,
        "Focal over L2": Focal(L2()),
        "Focal-R": Focal(L2(), weighting="smooth"),
        "Focal over RebalancedCrossEntropy": Focal(cross_entropy),
    }


def score(loss: ColorLoss, output: Tensor, batch: LabBatch, part: slice) -> list[Tensor]:
    """The loss of a part of the batch, and its gradient with respect to the whole output."""
    leaf = output.clone().requires_grad_()
    bins = ab_bins() if leaf.shape[1] == 313 else None
    total = loss(ColorPrediction(output=leaf[part], input_size=(16, 16), bins=bins), batch[part]).total
    total.backward()
    assert leaf.grad is not None
    return [total.detach(), leaf.grad]


def cases() -> Iterator[tuple[str, ColorLoss, Tensor, LabBatch]]:
    """Yields each loss with outputs of both heads and a batch of four, for two processes."""
    generator = torch.Generator().manual_seed(0)
    ab = 40 * torch.randn(4, 2, 16, 16, generator=generator)
    ab[3] = 1.0  # grey, in the second half; the largest error is in the first one
    batch = LabBatch(L=torch.zeros(4, 1, 16, 16), ab=ab, index=torch.arange(4))
    for channels in (2, 313):
        output = 10 * torch.randn(4, channels, 4, 4, generator=generator)
        for name, loss in losses().items():
            yield name, loss, output, batch


def main() -> None:
    """Asserts it in each of two processes."""
    dist.init_process_group("gloo")
    part = slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)
    for name, loss, output, batch in cases():
        expected = score(loss.eval(), output, batch, slice(None))
        for mean, value in zip(score(loss.train(), output, batch, part), expected, strict=True):
            dist.all_reduce(mean)
            torch.testing.assert_close(mean / 2, value, msg=lambda text, name=name: f"{name}: {text}")
    dist.destroy_process_group()


class TwoThreads:
    """Stands in for torch.distributed where two threads are the processes."""

    ReduceOp = dist.ReduceOp

    def __init__(self) -> None:
        self._barrier, self._values = threading.Barrier(2, timeout=30), dict[int, Tensor]()

    def is_initialized(self) -> bool:
        return True

    def get_world_size(self) -> int:
        return 2

    def all_reduce(self, value: Tensor, op: dist.ReduceOp.RedOpType) -> None:
        self._values[threading.get_ident()] = value.clone()
        self._barrier.wait()
        values = torch.stack(list(self._values.values()))
        value.copy_(values.amax(dim=0) if op == dist.ReduceOp.MAX else values.sum(dim=0))
        if self._barrier.wait() == 0:
            self._values.clear()
        self._barrier.wait()


def test_two_threads_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(focal, "dist", TwoThreads())
    with ThreadPoolExecutor(2) as pool:
        for name, loss, output, batch in cases():
            expected = score(loss.eval(), output, batch, slice(None))
            run = partial(score, loss.train(), output, batch)
            for values in zip(expected, *pool.map(run, (slice(2), slice(2, 4))), strict=True):
                torch.testing.assert_close((values[1] + values[2]) / 2, values[0], msg=name)


@pytest.mark.slow
def test_two_processes_are_one() -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *launcher, __file__],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    main()
