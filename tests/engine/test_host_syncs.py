"""No path that a GPU runs makes the host wait for it, but where a result goes to the host.

The real code runs on torch's meta device, which has no values, as a GPU has none that the host knows at once. So all
that would wait is seen, also where C++ or a library asks for a value. What threads of a pool do is called directly.
"""

import sys
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from photochrom.engine.colorization import colorize as colorize_module
from photochrom.engine.colorization.colorize import colorize
from photochrom.engine.distributed import make_training_accelerator
from photochrom.engine.evaluation.predictors import BASELINES, ModelPredictor
from photochrom.engine.evaluation.score import Scorer, predictions
from photochrom.engine.training import loop
from photochrom.engine.training import run as training
from photochrom.engine.training.preview import triptychs
from photochrom.engine.training.trainer import Trainer
from photochrom.losses import L2, ColorLoss, Focal, RebalancedCrossEntropy, SmoothL1
from photochrom.models import VGGColorizer
from photochrom.pipelines import CachedLoader, LabBatch, ShardSet, TorchLoader
from photochrom.pipelines.imaging.color import lab_converter
from photochrom.pipelines.loading.batch_buffer import DeviceImageBuffer
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU, GPU = torch.device("cpu"), torch.device("meta")
FROM_HOST = (torch.tensor, torch.as_tensor, torch.asarray)


class HostSyncs(TorchFunctionMode):
    """Counts, by kind, what makes the host wait for the GPU; the host gets zeros and ones in place of values."""

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
        kwargs = kwargs or {}
        if func in FROM_HOST and torch.device(kwargs.get("device") or CPU) == GPU:
            self.counts["constant"] += 1
        return func(*args, **kwargs)


class _Operators(TorchDispatchMode):
    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self._counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, str(func.overloadpacket)
        with self:  # in inference mode, operators come here that consist of others
            if (result := func.decompose(*args, **kwargs)) is not NotImplemented:
                return result
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not any(tensor.device == GPU for tensor in tensors):
            if name == "aten._to_copy" and kwargs.get("device") == GPU and not kwargs.get("non_blocking"):
                self._counts["to the GPU"] += 1
            return func(*args, **kwargs)
        (tensor, *_) = tensors
        if name == "aten._local_scalar_dense":
            self._counts["item"] += 1
            return 1
        if name == "aten.nonzero":
            self._counts["nonzero"] += 1
            return tensor.new_zeros(3, tensor.ndim, dtype=torch.int64)
        if name == "aten._to_copy" and kwargs.get("device") == CPU:
            self._counts["to the host"] += not kwargs.get("non_blocking")
            return torch.zeros(tensor.shape, dtype=kwargs.get("dtype") or tensor.dtype)
        # An index or a source on the host is copied to the GPU; a single number is an argument of the kernel.
        if any(other.device == CPU and (other.ndim or name == "aten.where") for other in tensors):
            self._counts[name] += 1
        return func(*args, **kwargs)


def waits(call: Callable[[], object]) -> Counter[str]:
    """Returns the waits of a second call: the first one makes constants and the state of an optimizer."""
    for _ in range(2):
        with HostSyncs() as syncs:
            call()
    return syncs.counts


@pytest.fixture(autouse=True)
def _meta_is_a_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the meta device be what torch and Accelerate allow for a GPU."""
    if request.node.get_closest_marker("gpu"):
        return
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
    fused = sys.modules["torch.optim.optimizer"]
    monkeypatch.setattr(fused, "_get_fused_kernels_supported_devices", lambda: [GPU.type])
    monkeypatch.setattr(Accelerator, "device", GPU)
    monkeypatch.setattr(Accelerator, "prepare_model", lambda self, model, **settings: model)


@pytest.fixture
def batch() -> LabBatch:
    L, ab = torch.empty(4, 1, 32, 32, device=GPU), torch.empty(4, 2, 32, 32, device=GPU)
    return LabBatch(L=L, ab=ab, index=torch.arange(4))


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
    accelerator = make_training_accelerator(config.train)
    accelerator.scaler = torch.amp.GradScaler(GPU.type) if head == "bins" else None  # of fp16
    trainer = Trainer(network, LOSSES[name](), config, accelerator)
    assert not waits(lambda: trainer.train_step(batch, step=1, lr=1e-4))


@pytest.mark.filterwarnings("ignore:invalid value")  # zeros in place of metrics
def test_a_whole_run(configure, shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint waits, too; what it waits for, finite weights, the meta device has not."""
    monkeypatch.setattr(training, "check_memory", lambda *args: None)
    monkeypatch.setattr(loop, "save", lambda *args, **kwargs: None)
    config = configure(
        tmp_path, train__steps=5, log__every=5, log__validate_every=5, data__val=shards.root, loader__backend="torch"
    )
    accelerator = make_training_accelerator(config.train)
    for _ in range(2):  # the first one makes constants
        run = training.prepare(config, accelerator, None)
        with HostSyncs() as syncs:
            assert loop.fit(run) == 0
    assert run.validation is not None
    assert syncs.counts == {
        "to the GPU": 5 + len(run.validation) + 1,  # batches, on CUDA from pinned memory; the metrics' weights of bins
        "to the host": 5 + 1 + 1,  # flags, on CUDA into pinned memory; the means of the log; the rows of the validation
    }


def test_a_batch_of_a_validation_or_an_evaluation(shards: ShardSet, batch: LabBatch) -> None:
    """Its rows go to the host later, all at once."""
    network = VGGColorizer(width=0.0625).to(GPU)
    predictors = {name: make(shards) for name, make in BASELINES.items()}
    predictors |= {name: ModelPredictor(network, make().to(GPU)) for name, make in LOSSES.items()}  # type: ignore[dict-item]
    scorer = Scorer(predictors, shards.prior)
    with torch.inference_mode():
        assert not waits(lambda: scorer._score(batch))


def test_a_whole_validation_fetches_its_rows_once(shards: ShardSet) -> None:
    predictor = ModelPredictor(VGGColorizer(width=0.0625).to(GPU), L2())
    loader = TorchLoader(shards, batch_size=2, size=32, train=False, device=GPU)
    scorer = Scorer({"model": predictor}, shards.prior)
    # On CUDA, batches are copied from pinned memory.
    assert waits(lambda: list(scorer.rows(loader, every=100))) == {"to the GPU": len(loader), "to the host": 1}


def test_a_preview(shards: ShardSet) -> None:
    predictor = ModelPredictor(VGGColorizer(width=0.0625).to(GPU), L2())
    loader = TorchLoader(shards, batch_size=9, size=32, train=False, device=GPU)
    assert waits(lambda: triptychs(*next(predictions(predictor, loader)))) == {"to the GPU": 1, "to the host": 1}


@pytest.mark.parametrize("store", ["jpeg", "lab"])
def test_a_batch_of_images_on_the_device(store: str) -> None:
    image = torch.empty((40, 50, 3) if store == "jpeg" else (3, 40, 50), dtype=torch.uint8, device=GPU)
    buffer = DeviceImageBuffer(2, 32, store, lab_converter(store))  # type: ignore[arg-type]

    def fill() -> None:
        for place in range(2):
            buffer.write(place, image, (3, 4, 36, 36), place == 1)
        buffer.finish()

    assert not waits(fill)


def test_an_image_for_a_cache_on_the_device(shards: ShardSet) -> None:
    loader = CachedLoader(shards, batch_size=2, size=32, train=True, device=GPU, cache_location="device")
    (stored,) = loader.reader.read(np.array([0]))
    with HostSyncs() as syncs:
        image = loader.image(0, stored)
    assert image.device == GPU
    assert not syncs.counts


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_colorized_image_comes_to_the_host_once(dtype: type) -> None:
    """Besides, the host waits for the number of pixels outside the gamut in each strip of 256 rows."""
    network, images = VGGColorizer(width=0.0625).to(GPU), [np.zeros((600, 40, 3), dtype)]
    assert waits(lambda: colorize(network, images, size=32, device=GPU)) == {"nonzero": 3, "to the host": 1}


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda x: torch.tensor([1.0], device=x.device), "constant"),
        (lambda x: x.sum().item(), "item"),
        (lambda x: x.any() or 0, "item"),
        (lambda x: x.tolist(), "to the host"),
        (lambda x: x.cpu(), "to the host"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: torch.zeros(2).to(x.device), "to the GPU"),
        (lambda x: x.copy_(torch.zeros(4)), "aten.copy_"),
        (lambda x: x[torch.arange(2)], "aten.index"),
        (lambda x: torch.where(x > 1, torch.tensor(1.0), x), "aten.where"),
    ],
)
def test_what_waits_is_seen(call: Callable[[Tensor], object], kind: str) -> None:
    with HostSyncs() as syncs:
        call(torch.empty(4, device=GPU))
    assert syncs.counts == {kind: 1}


def test_an_index_by_mask_fails() -> None:
    values = torch.empty(4, device=GPU)
    with pytest.raises(NotImplementedError, match="nonzero"):  # torch's: the meta device has no values to count
        values[values > 1]


@pytest.mark.gpu
def test_cuda_finds_no_wait_either(shards: ShardSet) -> None:
    network, images = VGGColorizer(width=0.0625).cuda(), [np.zeros((64, 40, 3), np.uint8)]
    predictors = {name: make(shards) for name, make in BASELINES.items()}
    predictors["model"] = ModelPredictor(network, Focal(L2()))
    scorer = Scorer(predictors, shards.prior)
    options = {"batch_size": 2, "size": 32, "train": False, "device": torch.device("cuda")}
    loaders = [TorchLoader(shards, **options), CachedLoader(shards, **options, cache_location="device")]

    def use_all() -> None:
        for loader in loaders:
            for batch in loader:
                scorer._score(batch)
        colorize_module._to_lightness(images[0], torch.device("cuda"))

    with torch.inference_mode():
        use_all()
        torch.cuda.set_sync_debug_mode("error")
        try:
            use_all()
        finally:
            torch.cuda.set_sync_debug_mode("default")
