import inspect
import sys
from inspect import Parameter

import pytest
from photochrom.pipelines import CachedLoader, DaliLoader, Loader, ShardSet, SyntheticLoader, TorchLoader


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
