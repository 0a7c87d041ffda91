"""The analysis on cases whose answer is known, with real loaders and networks."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from photochrom.bench.command import main
from photochrom.bench.stalls.command import advice, measure, significant
from photochrom.bench.stalls.feed_stages import DECODE, NETWORK, STORAGE, TRANSFER, Carry, MemoryReader
from photochrom.engine.configuration.config import ClassSpec, DataConfig, LoaderConfig, RunConfig, TrainConfig
from photochrom.pipelines import LabBatch, ShardSet
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
        model=ClassSpec(class_path="VGGColorizer", init_args={"width": width}),
        loader=LoaderConfig(threads=1, **loader),
        train=TrainConfig(batch_size=4, device="cpu", precision="fp32"),
    )


def verdict(expected: str, run: RunConfig, carry: Carry | None = None) -> str:
    """What bottleneck the run, and in which words; what disturbs a measurement may do so once."""
    for _ in range(2):
        found = measure(run, SECONDS, carry)
        print(found["verdict"])
        if found["diagnosis"]["bottleneck"] == expected:
            return str(found["verdict"])
    raise AssertionError(found["verdict"])


def slowed(real: Callable[..., Any]) -> Callable[..., Any]:
    def read(self: LocalReader, index: Any) -> Any:
        time.sleep(0.01 * len(index))
        return real(self, index)

    return read


def test_a_throttled_reader(shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalReader, "read", slowed(LocalReader.read))
    assert verdict(STORAGE, config(shards.root, backend="torch")).startswith("reading from storage bottleneck")


@pytest.mark.parametrize("backend", ["dali", "torch"])
def test_one_thread_that_decodes_for_a_narrow_network(large: Path, backend: str) -> None:
    assert verdict(DECODE, config(large, backend=backend)).startswith("decoding on the CPU bottleneck")


def test_what_is_no_slower_in_its_fastest_round_is_noise() -> None:
    times = {"a": [1.0, 1.1, 1.2], "b": [1.0, 1.9, 2.0], "c": [1.3, 1.4, 1.5], "d": [0.5, 0.6, 0.7]}
    assert significant(times) == {"a": 1.1, "b": 1.1, "c": 1.4, "d": 0.6}


def test_it_is_said_when_rounds_of_the_same_differ_too_much() -> None:
    found: dict[str, Any] = {"cold_reading(img/s)": [], "diagnosis": {"rate": 5.0, "remedies": []}}
    quiet = {"min(img/s)": 9.0, "max(img/s)": 10.0}
    assert not list(advice(found | {"rows": [quiet, quiet]}))
    (note,) = advice(found | {"rows": [quiet, {"min(img/s)": 5.0, "max(img/s)": 10.0}]})
    assert note.startswith("rounds of the same differ by 2.0 times")


def test_a_wide_network(shards: ShardSet) -> None:
    run = config(shards.root, width=0.25, size=64)
    assert verdict(NETWORK, run).startswith("the network's own arithmetic bottleneck")


def test_a_slow_copy(shards: ShardSet) -> None:
    def carry(batch: LabBatch) -> LabBatch:
        time.sleep(0.05)
        return LabBatch(L=batch.L.clone(), ab=batch.ab.clone(), index=batch.index)

    assert verdict(TRANSFER, config(shards.root), carry).startswith("the transfer of batches to the device bottleneck")


def test_from_the_command_line(shards: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["stalls", "--config", "demo", "--data", str(shards.root), "--seconds", "1", "--data.size", "32"]
    command += ["--model.width", "0.0625", "--train.batch_size", "4", "--train.device", "cpu"]
    assert main([*command, "--out", str(tmp_path / "stalls.json")]) == 0
    found = json.loads((tmp_path / "stalls.json").read_text())
    assert [row["adds"] for row in found["rows"]] == ["network", "Lab", "decode", "storage"]
    assert found.keys() >= {"machine", "versions", "settings", "rows", "verdict", "diagnosis"}
    assert found["settings"]["data"]["size"] == 32
    assert found["settings"]["data"]["train"] == str(shards.root)
    assert "out" not in found["settings"]
    assert len(found["cold_reading(img/s)"]) == 3
    assert Image.open(tmp_path / "stalls.png").width > 500
    assert found["verdict"] in capsys.readouterr().out
    assert not Path("unused").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["stall"], "there is no verb 'stall'; did you mean stalls?"),
        (["stalls"], "the following arguments are required: --data"),
        (["stalls", "--data", "x", "--seconds", "0"], "--seconds 0.0 is not positive"),
        (
            ["stalls", "--data", "x", "--out", "nowhere/x.json"],
            "--out nowhere/x.json is in a folder that does not exist",
        ),
        (["stalls", "--data", "x", "--out", "x.png"], "--out x.png does not end in .json: name such a file"),
        (["stalls", "--data", "x", "--optim.lrr", "1"], "unknown option --optim.lrr; did you mean --optim.lr?"),
    ],
)
def test_bad_usage(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        sys.exit(main(arguments))
    assert sentence in capsys.readouterr().err


def test_what_is_read_from_memory_is_what_lies_on_the_disk(shards: ShardSet) -> None:
    reader = LocalReader(shards)
    index = torch.tensor([3, 0, 3]).numpy()
    for kept, stored in zip(MemoryReader(reader, 5).read(index), reader.read(index), strict=True):
        assert kept.tobytes() == stored.tobytes()
