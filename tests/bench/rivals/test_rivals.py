"""Each entry in a real process; the reference is scikit-image."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from photochrom.bench.rivals import datasets, measurement
from photochrom.bench.rivals.command import RivalsOptions
from photochrom.bench.rivals.command import main as rivals
from photochrom.bench.rivals.entries import ENTRIES, RANDOM_RESIZED, RIVALS, SETS, SQUASH, WRITERS, Entry
from photochrom.bench.rivals.measurement import TOLERANCE_AB, TOLERANCE_L, make_rows, verdict_of
from photochrom.bench.rivals.task import Task
from photochrom.bench.rivals.throughput import errors
from photochrom.engine.configuration.parser import parse_options
from PIL import Image
from skimage.color import rgb2lab

LIBRARIES = {"opencv": "cv2", "dali_kornia": "nvidia.dali", "litdata": "litdata", "hf_datasets": "datasets"}


def bench(*argv: str) -> int:
    return rivals(list(argv), "photochrom bench rivals")


def missing(rival: str) -> bool:
    library = LIBRARIES.get(rival, "torch")
    return importlib.util.find_spec(library.split(".")[0]) is None


def skip_if_missing(rival: str) -> None:
    if missing(rival) or (rival in ("litdata", "hf_datasets") and missing("opencv")):
        pytest.skip(f"the library of {rival} is not installed")


def task(**fields: Any) -> Task:
    defaults = {"loader": "", "data": "", "crop": SQUASH, "size": 8, "batch_size": 2, "threads": 1, "device": "cpu"}
    return Task(**{**defaults, "seconds": 0.1, "reference": "", **fields})


def measured(throughput: float, error: float = 0.5) -> dict[str, float]:
    row = {"wall(s/img)": 1 / throughput, "cpu(ms/img)": 1.0, "first_batch(s)": 1.0}
    return row | {"error_L": error, "error_ab": 0.1}


@pytest.fixture(scope="module")
def settings(photos: Path) -> list[str]:
    """Options of short runs."""
    return ["--data", str(photos), "--size", "64", "--batch-size", "4", "--threads", "1", "--seconds", "0.5"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of data sets that several tests use."""
    return tmp_path_factory.mktemp("rivals")


def test_rows_and_table_of_a_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    throughputs = {"original": 10.0, "opencv": 30.0, "TorchLoader": 60.0}

    def dataset(reads: str, folder: Path, options: RivalsOptions) -> None:
        (folder / "files").mkdir(exist_ok=True)
        if reads == "chunks":
            raise ImportError("No module named 'litdata'")

    def run(entry: Entry, *rest: object) -> dict[str, float]:
        if entry.loader == "dali_kornia":
            raise subprocess.CalledProcessError(1, "python", stderr="Traceback\nRuntimeError: no decoder\n")
        return measured(throughputs[entry.loader])

    monkeypatch.setattr(measurement, "dataset", dataset)
    monkeypatch.setattr(measurement, "_run", run)
    out = tmp_path / "rivals.json"
    only = [f"{name}:files:squash" for name in ("original", "opencv", "dali_kornia")]
    assert bench("--data", "x", "--only", *only, "TorchLoader:squashed", "litdata", "--out", str(out)) == 0
    results = json.loads(out.read_text())
    rows = {row["entry"].partition(":")[0]: row for row in results["rows"]}
    assert {name: round(rows[name]["ratio"]) for name in rows} == {"original": 1, "opencv": 3, "TorchLoader": 6}
    assert rows["TorchLoader"]["is_same"] is True
    assert results["skipped"] == {
        "dali_kornia:files:squash": "RuntimeError: no decoder",
        "litdata:chunks:squash": "No module named 'litdata'",
        "litdata:chunks:random_resized": "No module named 'litdata'",
    }
    printed = capsys.readouterr().out
    assert results["verdict"] in printed.replace("\n", "")
    assert "skipped: dali_kornia:files:squash: RuntimeError: no decoder" in printed
    assert "TorchLoader:squashed:squash" in printed


@pytest.mark.slow
def test_entries_take_turns(settings: list[str], tmp_path: Path) -> None:
    out = tmp_path / "rivals.json"
    only = ["original:files:squash", "TorchLoader:squashed"]
    assert bench(*settings, "--only", *only, "--out", str(out)) == 0
    results = json.loads(out.read_text())
    rows = {row["entry"].partition(":")[0]: row for row in results["rows"]}
    assert rows.keys() == {"original", "TorchLoader"}
    for row in rows.values():
        assert 0 < row["min(img/s)"] <= row["median(img/s)"] <= row["max(img/s)"]
        assert row["cpu(ms/img)"] > 0
        assert row["first_batch(s)"] > 0
    assert rows["original"]["ratio"] == 1
    assert rows["original"]["error_L"] < 1e-3 > rows["original"]["error_ab"]
    assert 0.01 < rows["TorchLoader"]["error_L"] < 2
    assert results["verdict"].startswith("9 photographs; fastest")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_leave_no_folder(number: signal.Signals, photos: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "photochrom", "bench", "rivals", "--data", str(photos), "--only", "original"]
    env = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([*command, "--batch-size", "4"], env=env, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.glob("photochrom-*/pymp-*")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(timeout=60) == 130
        assert process.stderr
        assert process.stderr.read().endswith("photochrom bench: interrupted\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("rival", [name for name in RIVALS if name != "original"])
def test_a_rival_makes_the_same_from_its_own_format(rival: str, settings: list[str], work: Path) -> None:
    skip_if_missing(rival)
    options = parse_options(RivalsOptions, settings, prog="rivals")
    for reads in ("reference", RIVALS[rival]):
        datasets.dataset(reads, work, options)
    result = measurement._run(Entry(rival, RIVALS[rival], SQUASH), work, options, 0.1)
    assert result["error_L"] < TOLERANCE_L
    assert result["error_ab"] < TOLERANCE_AB


@pytest.mark.parametrize("crop", ["squash", "random_resized"])
def test_dali_decodes_on_the_device_of_the_batches(crop: str, photos: Path) -> None:
    skip_if_missing("dali_kornia")
    from photochrom.bench.rivals import dali_kornia

    batches = dali_kornia.batches(task(data=str(photos), crop=crop, size=32, batch_size=4, device="cuda"))
    if torch.cuda.is_available():
        L, ab, _ = next(batches)
        assert (L.device.type, ab.device.type) == ("cuda", "cuda")
    else:
        with pytest.raises(RuntimeError, match=r"(?i)cuda"):
            next(batches)


def test_pictures_are_compared_with_scikit_image_by_number(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "files").mkdir()
    pictures = [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(5)]
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / "files" / f"{number:06}.png")
    datasets._write_reference(tmp_path / "files", tmp_path / "reference", 8)
    lab = torch.tensor(np.stack([rgb2lab(picture) for picture in pictures]), dtype=torch.float32).permute(0, 3, 1, 2)

    def batches(*orders: list[int]) -> Any:
        return ((lab[order, :1] + 2, lab[order, 1:], torch.tensor(order)) for order in cycle(orders))

    reference = task(reference=str(tmp_path / "reference"))
    error_L, error_ab = errors(batches([3, 1], [1, 0], [4, 3], [2, 0]), reference)
    assert (error_L, error_ab) == (pytest.approx(2, abs=1e-4), pytest.approx(0, abs=1e-4))
    with pytest.raises(ValueError, match="only 4 of 5 photographs came in 12 passes"):
        errors(batches([3, 1], [1, 0], [4, 3]), reference)


def test_ratios_are_by_round_and_different_results_are_named() -> None:
    original, litdata = Entry("original", "files", SQUASH), Entry("litdata", "chunks", SQUASH)
    rounds = {
        litdata: [measured(throughput, error=3.0) for throughput in (300.0, 100.0, 80.0)],
        original: [measured(throughput) for throughput in (100.0, 50.0, 80.0)],
    }
    row, _ = rows = make_rows(rounds)
    assert row["ratio"] == pytest.approx(2)
    assert row["is_same"] is False
    assert "NOT THE SAME RESULT: litdata:chunks:squash" in verdict_of(rows)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--only", "original", "opencb"], "--only opencb is not an entry; did you mean opencv? Known are original"),
        (["--seconds", "0"], "--seconds 0.0 is not a positive number"),
        (["--size", "100"], "--size 100 is not a multiple of 8"),
        (["--threads", "0"], "--threads 0 is not a positive number"),
    ],
)
def test_bad_usage(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        bench("--data", "nowhere", *options)
    assert exit_.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_too_few_photographs_for_a_batch(photos: Path) -> None:
    with pytest.raises(ValueError, match="too few for a batch of 32"):
        bench("--data", str(photos), "--size", "504", "--only", "original")


def test_every_rival_has_both_crops_and_imports_only_its_needs() -> None:
    assert {(name, crop) for name in RIVALS for crop in (SQUASH, RANDOM_RESIZED)} <= {
        (entry.loader, entry.crop) for entry in ENTRIES
    }
    assert not WRITERS.keys() & SETS.keys()
    code = "import sys, photochrom.bench.rivals.{}; print(*({{'torch', 'numpy', 'cv2', 'skimage'}} & set(sys.modules)))"
    for module, expected in {"worker": set(), "original": {"torch", "numpy", "skimage"}}.items():
        command = [sys.executable, "-c", code.format(module)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert set(done.stdout.split()) == expected
