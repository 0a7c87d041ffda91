import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from photochrom.engine import loaders
from photochrom.engine.configuration.config import LoaderConfig
from photochrom.engine.training.run import train
from photochrom.pipelines import CachedLoader, DaliLoader, Loader, ShardSet, SyntheticLoader, TorchLoader

BACKENDS = {"auto": DaliLoader, "dali": DaliLoader, "torch": TorchLoader, "cached": CachedLoader}
BACKENDS["synthetic"] = SyntheticLoader


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_trains_with_every_backend(
    configure, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    created: list[type[Loader]] = []
    original = loaders.LOADERS.copy()
    for name, kind in original.items():
        monkeypatch.setitem(loaders.LOADERS, name, lambda *a, _kind=kind, **k: created.append(_kind) or _kind(*a, **k))
    settings = {"loader__backend": backend, "train__steps": 3, "train__batch_size": 9, "loader__shuffle_block_size": 2}
    train(configure(tmp_path / "run", **settings))
    assert created[0] is BACKENDS[backend]
    assert created[1] in (DaliLoader, TorchLoader)  # previews always show photographs
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["images"] == 27


def test_a_run_resumes_with_another_backend(configure, tmp_path: Path) -> None:
    train(configure(tmp_path / "run", loader__backend="dali", train__steps=2))
    train(configure(tmp_path / "run", loader__backend="torch", train__steps=4))
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 4


def test_auto_takes_torch_where_dali_decodes_nothing(shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    lab = ShardSet(shards.root, {**shards.manifest, "image": {"store": "lab"}})
    assert loaders.resolve_backend("auto", shards, cpu) == "dali"
    assert loaders.resolve_backend("auto", lab, cpu) == "torch"
    assert loaders.resolve_backend("auto", lab, gpu) == "dali"
    assert loaders.resolve_backend("dali", lab, cpu) == "dali"
    monkeypatch.setattr(loaders, "has_dali", lambda: False)
    assert loaders.resolve_backend("auto", shards, gpu) == "torch"
    assert loaders.resolve_backend("cached", shards, cpu) == "cached"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"shuffle_block_size": 0}, "loader.shuffle_block_size=0 is not a positive number"),
        ({"hw_decoder_load": 1.5}, r"loader.hw_decoder_load=1.5 is not between 0 and 1"),
        ({"cache_gib": -1.0}, "loader.cache_gib=-1.0 is negative"),
    ],
)
def test_settings_out_of_range(settings: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        LoaderConfig(**settings)


def test_training_needs_nothing_that_only_linux_has() -> None:
    """Packing does. macOS and Windows train on sets that were packed elsewhere."""
    code = (
        "import sys, os\n"
        "sys.modules |= {'photochrom.pipelines.packing.worker_pool': None, 'fcntl': None}\n"
        "del os.sched_getaffinity\n"
        "import photochrom.engine.training.run, photochrom.engine.evaluation.evaluate\n"
        "from photochrom.engine.distributed import threads_per_process\n"
        "assert threads_per_process() >= 1"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
