"""The differential analysis on runs whose bottleneck is known, with real loaders and networks."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from photochrom.bench.command import main
from photochrom.bench.common.timing import Clock
from photochrom.bench.stalls.feed_stages import (
    DECODE,
    LAB,
    NETWORK,
    STORAGE,
    TRANSFER,
    MemoryReader,
    ToDevice,
    _host_batches,
)
from photochrom.bench.stalls.measurement import advice, measure, significant
from photochrom.engine.configuration.config import DataConfig, LoaderConfig, ModelSpec, RunConfig, TrainConfig
from photochrom.engine.training.trainer import Trainer
from photochrom.pipelines import LabBatch, ShardSet
from photochrom.pipelines.loading.batch_buffer import DeviceBatchBuffer
from photochrom.pipelines.loading.reader import LocalReader
from PIL import Image

SECONDS = 2.0


@pytest.fixture(scope="module")
def large(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of 3 megapixels, which take 15 ms to decode."""
    from photochrom.engine.cli import main as photochrom

    folder = tmp_path_factory.mktemp("large")
    (folder / "in").mkdir()
    for path in sorted(photos.rglob("*.*"))[:4]:
        Image.open(path).convert("RGB").resize((2000, 1500)).save(folder / "in" / f"{path.stem}.jpg", quality=95)
    assert photochrom(["pack", str(folder / "in"), str(folder / "set"), "--short-side", "none", "--workers", "1"]) == 0
    return folder / "set"


def config(data: Path, *, width: float = 0.03125, size: int = 32, **loader: Any) -> RunConfig:
    return RunConfig(
        out=Path("unused"),
        data=DataConfig(train=str(data), size=size, crop="squash"),
        model=ModelSpec(class_path="VGGColorizer", init_args={"width": width}),
        loader=LoaderConfig(threads=1, **loader),
        train=TrainConfig(batch_size=4, device="cpu", precision="fp32"),
    )


def verdict(bottleneck: str, run: RunConfig, to_device: ToDevice | None = None) -> str:
    """Returns the verdict; measures once more if it names another bottleneck, as other programs may disturb."""
    for _ in range(2):
        results = measure(run, SECONDS, to_device)
        print(results["verdict"])
        if results["diagnosis"]["bottleneck"] == bottleneck:
            return str(results["verdict"])
    raise AssertionError(results["verdict"])


def before(action: Callable[..., None], function: Callable[..., Any]) -> Callable[..., Any]:
    def both(*args: Any, **kwargs: Any) -> Any:
        action(*args)
        return function(*args, **kwargs)

    return both


@pytest.mark.parametrize(
    ("costs", "bottleneck", "stall"),
    [
        ({NETWORK: 3.0, TRANSFER: 1.0, STORAGE: 1.0}, NETWORK, 40 / 100),
        ({NETWORK: 1.0, TRANSFER: 3.0, STORAGE: 1.0}, TRANSFER, 80 / 100),
        ({NETWORK: 1.0, TRANSFER: 1.0, STORAGE: 8.0}, STORAGE, 90 / 100),
    ],
)
def test_stalls_by_a_clock_on_which_only_three_things_take_time(
    costs: dict[str, float], bottleneck: str, stall: float, shards: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    class VirtualClock(Clock):
        def lap(self) -> float:
            nonlocal now
            seconds, now = now, 0.0
            return seconds

    def take(name: str, number: int = 1) -> None:
        nonlocal now
        now += costs[name] * number

    def to_device(batch: LabBatch) -> LabBatch:
        take(TRANSFER)
        return batch

    monkeypatch.setattr("photochrom.bench.stalls.measurement.Clock", VirtualClock)
    monkeypatch.setattr(LocalReader, "read", before(lambda _, index: take(STORAGE, bool(len(index))), LocalReader.read))
    monkeypatch.setattr(Trainer, "train_step", before(lambda *_: take(NETWORK), Trainer.train_step))
    diagnosis = measure(config(shards.root, backend="torch"), 0.0, to_device)["diagnosis"]
    total = sum(costs.values())
    assert diagnosis["shares"] == pytest.approx({LAB: 0, DECODE: 0} | {name: costs[name] / total for name in costs})
    assert diagnosis["stall"] == pytest.approx(stall)
    assert diagnosis["rate"] == pytest.approx(4 / total)
    assert diagnosis["bottleneck"] == bottleneck


@pytest.mark.slow
def test_a_throttled_reader(shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    throttle = before(lambda _, index: time.sleep(0.03 * len(index)), LocalReader.read)
    monkeypatch.setattr(LocalReader, "read", throttle)
    assert verdict(STORAGE, config(shards.root, backend="torch")).startswith("bottleneck: reading from storage (")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["dali", "torch"])
def test_one_thread_that_decodes_for_a_narrow_network(large: Path, backend: str) -> None:
    assert verdict(DECODE, config(large, backend=backend)).startswith("bottleneck: decoding on the CPU (")


@pytest.mark.slow
def test_a_wide_network(shards: ShardSet) -> None:
    run = config(shards.root, width=0.25, size=64)
    assert verdict(NETWORK, run).startswith("bottleneck: the network's own arithmetic (")


@pytest.mark.slow
def test_a_slow_copy(shards: ShardSet) -> None:
    def to_device(batch: LabBatch) -> LabBatch:
        time.sleep(0.05)
        return LabBatch(L=batch.L.clone(), ab=batch.ab.clone(), index=batch.index)

    run = config(shards.root)
    assert verdict(TRANSFER, run, to_device).startswith("bottleneck: the transfer of batches to the device (")


def test_a_stage_no_slower_in_its_fastest_round_is_noise() -> None:
    times = {"a": [1.0, 1.1, 1.2], "b": [1.0, 1.9, 2.0], "c": [1.3, 1.4, 1.5], "d": [0.5, 0.6, 0.7]}
    assert significant(times) == {"a": 1.1, "b": 1.1, "c": 1.4, "d": 0.6}


def test_noisy_rounds_are_reported() -> None:
    results: dict[str, Any] = {"cold_reading(img/s)": [], "diagnosis": {"rate": 5.0, "remedies": []}}
    quiet = {"min(img/s)": 9.0, "max(img/s)": 10.0}
    assert not list(advice(results | {"rows": [quiet, quiet]}))
    (note,) = advice(results | {"rows": [quiet, {"min(img/s)": 5.0, "max(img/s)": 10.0}]})
    assert note.startswith("rounds of one stage differ by a factor of 2.0")


def test_from_the_command_line(shards: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["stalls", "--config", "demo", "--data", str(shards.root), "--seconds", "1", "--data.size", "32"]
    command += ["--model.width", "0.0625", "--train.batch_size", "4", "--train.device", "cpu"]
    assert main([*command, "--out", str(tmp_path / "stalls.json")]) == 0
    results = json.loads((tmp_path / "stalls.json").read_text())
    assert [row["adds"] for row in results["rows"]] == ["network", "Lab", "decode", "storage"]
    assert results.keys() >= {"machine", "versions", "settings", "rows", "verdict", "diagnosis"}
    assert results["settings"]["data"]["size"] == 32
    assert results["settings"]["data"]["train"] == str(shards.root)
    assert "out" not in results["settings"]
    assert len(results["cold_reading(img/s)"]) == 3
    assert results["verdict"] in capsys.readouterr().out
    assert not Path("unused").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["stall"], "there is no verb 'stall'; did you mean stalls?"),
        (["stalls"], "the following arguments are required: --data"),
        (["stalls", "--data", "x", "--seconds", "0"], "--seconds 0.0 is not a positive number"),
        (
            ["stalls", "--data", "x", "--out", "nowhere/x.json"],
            "--out nowhere/x.json is in a folder that does not exist",
        ),
        (["stalls", "--data", "x", "--out", "x.png"], "--out x.png does not end in .json: name such a file"),
        (["stalls", "--data", "x", "--optim.lrr", "1"], "unknown setting optim.lrr; did you mean optim.lr?"),
    ],
)
def test_bad_usage(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        sys.exit(main(arguments))
    assert sentence in capsys.readouterr().err


def test_the_transfer_is_that_of_the_loaders(monkeypatch: pytest.MonkeyPatch) -> None:
    """On their stream, beside the step; without the conversion to Lab, which is a stage of its own."""
    copied = []
    monkeypatch.setattr(DeviceBatchBuffer, "copy", before(copied.append, DeviceBatchBuffer.copy))
    device, data = torch.device("cpu"), SimpleNamespace(store="jpeg")
    run = SimpleNamespace(
        accelerator=SimpleNamespace(device=device), config=config(Path("unused")), loader=SimpleNamespace(data=data)
    )
    batches = _host_batches(run, None)  # type: ignore[arg-type]
    assert next(batches) is next(batches)
    assert [buffer._bytes.shape for buffer in copied] == 2 * [(4, 32, 32, 3)]


def test_the_memory_reader_returns_the_stored_bytes(shards: ShardSet) -> None:
    reader = LocalReader(shards)
    index = torch.tensor([3, 0, 3]).numpy()
    for kept, stored in zip(MemoryReader(reader, 5).read(index), reader.read(index), strict=True):
        assert kept.tobytes() == stored.tobytes()
