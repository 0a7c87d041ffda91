import inspect
import sys
from inspect import Parameter
from pathlib import Path

import numpy as np
import pytest
import torch
from photochrom.pipelines import (
    CachedLoader,
    DaliLoader,
    Loader,
    PackConfig,
    ShardSet,
    SyntheticLoader,
    TorchLoader,
    pack,
)
from photochrom.pipelines.loading.dali_loader import _images, _sizes
from photochrom.pipelines.loading.reader import lab_planes


def test_one_pipeline_serves_all_epochs_and_passes(shards: ShardSet) -> None:
    """Building one stops training for two seconds on an H100."""
    batches = DaliLoader(shards, batch_size=4, size=64, train=True, threads=2)
    next(iter(batches))
    pipeline = batches._pipeline
    for _ in range(3):
        list(batches)
    batches.load_state_dict({**batches.state_dict(), "position": 12})
    assert next(iter(batches)).index.tolist() == batches.plan(3).index.tolist()
    assert batches._pipeline is pipeline


def test_without_dali_the_error_tells_what_to_install(shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(ImportError, match="pip install nvidia-dali-cuda130"):
        DaliLoader(shards.root, batch_size=1, size=64, train=False)


@pytest.mark.parametrize("loader", [CachedLoader, DaliLoader, SyntheticLoader, TorchLoader])
def test_every_argument_has_a_name_and_a_type(loader: type[Loader]) -> None:
    parameters = inspect.signature(loader).parameters.values()
    assert {"source", "batch_size", "size", "train", "threads"} < {parameter.name for parameter in parameters}
    assert all(parameter.annotation is not parameter.empty for parameter in parameters)
    assert {parameter.kind for parameter in parameters} == {Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("store", ["jpeg", "lab"])
def test_the_graph_of_a_gpu_makes_the_pictures_of_a_cpu(photos: Path, tmp_path: Path, store: str) -> None:
    """It runs here on DALI's CPU backend: cut, resized and flipped by DALI, where the loader on a CPU leaves the last
    two to others."""
    from nvidia.dali import Pipeline, fn, types

    pack(PackConfig(source=photos, out=tmp_path / "set", short_side=96, store=store, workers=1))  # type: ignore[arg-type]
    settings = {"batch_size": 8, "size": 48, "train": True, "flip": True, "crop": "random_resized", "seed": 3}
    loader, reference = DaliLoader(tmp_path / "set", **settings), TorchLoader(tmp_path / "set", **settings)
    batch, plan = next(iter(reference)), loader.plan(0)
    assert 0 < plan.flip.sum() < 8
    stored = [np.array(image) for image in loader.reader.read(plan.index)]
    if store == "lab":
        stored = [np.array(planes) for planes in map(lab_planes, stored, loader.data.sizes[plan.index])]
    pipeline = Pipeline(batch_size=8, num_threads=1, device_id=None)
    with pipeline:
        window = plan.window.astype(np.int32)
        inputs = [list(window[:, :2]), list(window[:, 2:]), list(_sizes(plan, 48))]
        layout = "CHW" if store == "lab" else ""
        pictures = fn.external_source(source=[stored], layout=layout, dtype=types.UINT8, cycle=True)
        rest = [fn.external_source(source=[values], cycle=True) for values in inputs]
        pipeline.set_outputs(_images(loader, pictures, *rest, on_gpu=False))
    pipeline.build()
    (decoded,) = pipeline.run()
    L, ab = loader._to_lab(torch.from_numpy(decoded.as_array()))
    assert (L - batch.L).abs().mean() < 0.5
    assert (ab - batch.ab).abs().mean() < 0.5
    assert (L.flip(3) - batch.L).abs().mean() > 2  # a flip that is lost, or one too many, is seen
