"""No path that a GPU runs makes the host wait for it, or copy constants to it, but where a result goes to the host.

The real code runs on a CPU in two modes that see what would be a wait on a GPU.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from photochrom.engine.colorization import colorize
from photochrom.engine.distributed import make_training_accelerator
from photochrom.engine.evaluation.predictors import BASELINES, ModelPredictor
from photochrom.engine.evaluation.score import Scorer
from photochrom.engine.training.trainer import Trainer
from photochrom.losses import L2, ColorLoss, Focal, RebalancedCrossEntropy, SmoothL1
from photochrom.models import VGGColorizer
from photochrom.pipelines import CachedLoader, LabBatch, ShardSet, TorchLoader
from photochrom.pipelines.imaging.color import lab_converter
from photochrom.pipelines.loading.batch_buffer import DeviceBatchBuffer, DeviceImageBuffer
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CPU = torch.device("cpu")
TO_HOST = {"item", "cpu", "numpy", "tolist", "__bool__", "__int__", "__float__", "__index__"}
FROM_HOST = {torch.tensor, torch.as_tensor, torch.asarray}
LENGTH_UNKNOWN = ("aten.nonzero", "aten.masked_select", "aten._unique", "aten.unique", "aten.repeat_interleave.Tensor")


class HostSyncs(TorchFunctionMode):
    """Counts the calls by name that make the host wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self._operators = _Operators(self.counts)

    def __enter__(self) -> "HostSyncs":
        self._operators.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._operators.__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if func in FROM_HOST or name in TO_HOST:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    """Counts operators whose result the host must know, also those that C++ calls."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self._counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        by_mask = name.startswith("aten.index") and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
            for index in (args[1] if isinstance(args[1], list | tuple) else ())
        )
        if name.startswith(LENGTH_UNKNOWN) or by_mask:
            self._counts[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def batch(shards: ShardSet) -> LabBatch:
    return next(iter(TorchLoader(shards, batch_size=4, size=32, train=False)))


def uniform() -> list[float]:
    return [1 / 313] * 313


LOSSES: dict[str, Callable[[], ColorLoss]] = {
    "l2": lambda: L2(resolution="input"),
    "smooth l1": SmoothL1,
    "cross-entropy": lambda: RebalancedCrossEntropy(uniform(), skip_grey=True),
    "focal l2": lambda: Focal(L2()),
    "focal cross-entropy": lambda: Focal(RebalancedCrossEntropy(uniform())),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("head", ["ab", "bins"])
def test_a_training_step(configure, tmp_path: Path, batch: LabBatch, name: str, head: str) -> None:
    config = configure(
        tmp_path, train__batch_size=4, train__grad_accum_steps=2, train__ema=0.9, train__max_nonfinite_steps=3
    )
    network = VGGColorizer(width=0.0625, head=head, upsampling="bicubic")  # type: ignore[arg-type]
    trainer = Trainer(network, LOSSES[name](), config, make_training_accelerator(config.train))
    trainer.train_step(batch, step=0, lr=1e-4)  # makes constants, and the optimizer's state
    with HostSyncs() as syncs:
        trainer.train_step(batch, step=1, lr=1e-4)
    assert not syncs.counts


def test_scoring(shards: ShardSet, batch: LabBatch) -> None:
    """A batch of a validation or an evaluation, with baselines; its rows go to the host later, all at once."""
    network = VGGColorizer(width=0.0625)
    predictors = {name: make(shards) for name, make in BASELINES.items()}
    predictors |= {name: ModelPredictor(network, make()) for name, make in LOSSES.items()}  # type: ignore[dict-item]
    scorer = Scorer(predictors, shards.prior)
    with torch.inference_mode():
        scorer._score(batch)
        with HostSyncs() as syncs:
            scorer._score(batch)
    assert not syncs.counts


@pytest.mark.parametrize("store", ["jpeg", "lab"])
@pytest.mark.parametrize("on_device", [False, True])
def test_a_batch_of_bytes(store: str, on_device: bool) -> None:
    image = np.zeros((40, 50, 3) if store == "jpeg" else (3, 40, 50), np.uint8)
    convert = lab_converter(store)  # type: ignore[arg-type]
    buffer: Any = (
        DeviceImageBuffer(2, 32, store, convert)  # type: ignore[arg-type]
        if on_device
        else DeviceBatchBuffer(2, 32, store, CPU, convert)  # type: ignore[arg-type]
    )
    for place in range(2):
        buffer.write(place, torch.from_numpy(image) if on_device else image, (3, 4, 36, 36), place == 1)
    buffer.finish()
    with HostSyncs() as syncs:
        buffer.finish()
    assert not syncs.counts


def test_a_picture_for_a_cache_on_the_device(shards: ShardSet) -> None:
    loader = CachedLoader(shards, batch_size=2, size=32, train=True, cache_location="device")
    (stored,) = loader.reader.read(np.array([0]))
    with HostSyncs() as syncs:
        loader.image(0, stored)
    assert not syncs.counts


def test_a_strip_of_a_colorized_image_waits_for_the_number_of_pixels_and_for_itself() -> None:
    L, ab = torch.rand(1, 1, 24, 24) * 100, torch.rand(1, 2, 24, 24) * 160 - 80
    colorize._to_rgb_torch(L, ab, np.dtype(np.uint8))
    with HostSyncs() as syncs:
        colorized = colorize._to_rgb_torch(L, ab, np.dtype(np.uint8))
        colorize._to_lightness_torch(colorized.pixels, CPU)
    assert colorized.clipped > 0.1
    assert syncs.counts == {"cpu": 1, "numpy": 1, "aten.nonzero.default": 1}


def test_the_modes_see_what_they_look_for() -> None:
    values = torch.arange(4.0)
    with HostSyncs() as syncs:
        torch.tensor([1.0])
        values.sum().item()
        values[values > 1]
        if values.any():
            values.nonzero()
    assert syncs.counts == {
        "tensor": 1,
        "item": 1,
        "aten.index.Tensor": 1,
        "__bool__": 1,
        "aten.nonzero.default": 1,
    }
