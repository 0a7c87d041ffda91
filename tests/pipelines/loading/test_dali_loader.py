import os
import subprocess
import sys

from photochrom.pipelines import DaliLoader, ShardSet


def test_one_pipeline_serves_all_epochs_and_passes(shards: ShardSet) -> None:
    """Building one takes an H100 two seconds, in which nobody trains."""
    batches = DaliLoader(shards, batch_size=4, size=64, train=True, threads=2)
    next(iter(batches))
    pipeline = batches._pipeline
    for _ in range(3):
        list(batches)
    batches.set_epoch(1)
    assert next(iter(batches)).index.tolist() == batches.plan(3).index.tolist()
    assert batches._pipeline is pipeline


def test_without_dali_a_sentence_says_what_to_install(shards: ShardSet) -> None:
    code = (
        "import sys; sys.modules['nvidia.dali'] = None\n"
        "from photochrom.pipelines import DaliLoader\n"
        f"DaliLoader({str(shards.root)!r}, batch_size=1, size=64, train=False)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert "pip install nvidia-dali-cuda130" in done.stderr.splitlines()[-1]
