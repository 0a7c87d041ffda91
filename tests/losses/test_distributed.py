"""The mean of two processes' losses, and of their gradients, is the loss and the gradient of the whole batch."""

import os
import subprocess
import sys

import torch
import torch.distributed as dist
from photochrom.losses import L2, ColorLoss, Focal, RebalancedCrossEntropy, SmoothL1, ab_bins
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


def main() -> None:
    """Asserts it on each of two processes."""
    dist.init_process_group("gloo")
    mine = slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)
    generator = torch.Generator().manual_seed(0)
    ab = 40 * torch.randn(4, 2, 16, 16, generator=generator)
    ab[3] = 1.0  # grey; it is one process's, and the largest error is the other's
    batch = LabBatch(L=torch.zeros(4, 1, 16, 16), ab=ab, index=torch.arange(4))
    for channels in (2, 313):
        output = 10 * torch.randn(4, channels, 4, 4, generator=generator)
        for name, loss in losses().items():
            expected = score(loss.eval(), output, batch, slice(None))
            means = score(loss.train(), output, batch, mine)
            for mean, value in zip(means, expected, strict=True):
                dist.all_reduce(mean)
                torch.testing.assert_close(mean / 2, value, msg=lambda text, name=name: f"{name}: {text}")
    dist.destroy_process_group()


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
