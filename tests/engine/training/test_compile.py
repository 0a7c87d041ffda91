"""A training step is one graph for torch.compile, compiled once, for all losses, heads and precisions."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from photochrom.engine.distributed import make_training_accelerator
from photochrom.engine.training.trainer import Trainer
from photochrom.losses import L2, ColorLoss, Focal, RebalancedCrossEntropy, SmoothL1
from photochrom.models import VGGColorizer, bias_relu
from photochrom.pipelines import LabBatch
from photochrom.pipelines.loading.synthetic_loader import random_lab
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

PRIOR = [1 / 313] * 313
LOSSES: dict[str, Callable[[], ColorLoss]] = {
    "l2": L2,
    "l2 of pixels": lambda: L2(resolution="input"),
    "smooth l1": SmoothL1,
    "smooth l1 of pixels": lambda: SmoothL1(resolution="input"),
    "cross-entropy": lambda: RebalancedCrossEntropy(PRIOR),
    "cross-entropy of points": lambda: RebalancedCrossEntropy(PRIOR, target="point", skip_grey=True),
    "focal l2": lambda: Focal(L2(resolution="input")),
    "focal l2, smooth": lambda: Focal(L2(), weighting="smooth"),
    "focal cross-entropy": lambda: Focal(RebalancedCrossEntropy(PRIOR)),
}
QUICK = {("l2 of pixels", "ab", "fp32"), ("focal cross-entropy", "bins", "bf16")}


def cases() -> list[object]:
    """All losses, heads and precisions; two of them in the fast tests."""
    every = [(loss, head, precision) for loss in LOSSES for head in ("ab", "bins") for precision in ("fp32", "bf16")]
    return [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow) for case in every]


@pytest.mark.parametrize(("loss", "head", "precision"), cases())
def test_a_step_is_one_graph_that_is_compiled_once(
    configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str, head: str, precision: str
) -> None:
    monkeypatch.setattr(bias_relu, "is_fused", lambda x: True)  # as on a GPU
    torch.compiler.reset()  # torch gives up on a function after eight compilations in a process
    config = configure(tmp_path, train__batch_size=2, train__precision=precision)
    network = VGGColorizer(width=0.0625, head=head, upsampling="bicubic")  # type: ignore[arg-type]
    trainer = Trainer(network, LOSSES[loss](), config, make_training_accelerator(config.train))
    counter = CompileCounter()
    counters.clear()  # breaks are counted, as fullgraph=True lets .item() pass
    trainer._compute_loss = torch.compile(trainer._micro_batch_loss, backend=counter)
    for step in range(3):
        L, ab = random_lab(2, 32, seed=step)
        trainer.train_step(LabBatch(L=L, ab=ab, index=torch.arange(2)), step=step, lr=1e-4)
    assert counter.frame_count == 1
    assert not counters["graph_break"]


def test_another_size_in_the_same_process_is_one_graph_too(
    configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bias_relu, "is_fused", lambda x: True)
    torch.compiler.reset()
    config = configure(tmp_path, train__batch_size=2, train__precision="fp32")
    network = VGGColorizer(width=0.0625, upsampling="bicubic")
    trainer = Trainer(network, L2(resolution="input"), config, make_training_accelerator(config.train))
    trainer._compute_loss = torch.compile(trainer._micro_batch_loss, backend="eager", fullgraph=True)
    for size in (32, 48, 64):
        L, ab = random_lab(2, size, seed=0)
        batch = LabBatch(L=L, ab=ab, index=torch.arange(2))
        compiled = trainer.train_step(batch, step=0, lr=0.0)[0]["loss"]
        plain = L2(resolution="input")(network(L), batch).total
        assert compiled.item() == pytest.approx(plain.item(), rel=1e-4)
    assert not counters["graph_break"]
