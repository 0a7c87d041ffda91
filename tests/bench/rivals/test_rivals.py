"""Each entry in a real process; the reference is scikit-image."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from photochrom.bench.rivals import dali_kornia
from photochrom.bench.rivals.accuracy import check, write_reference
from photochrom.bench.rivals.command import RivalsOptions
from photochrom.bench.rivals.command import main as rivals
from photochrom.bench.rivals.datasets import Datasets
from photochrom.bench.rivals.entries import ENTRIES, RANDOM, RIVALS, SETS, SQUASH, Entry
from photochrom.bench.rivals.processes import EntryRunner
from photochrom.bench.rivals.rows import TOLERANCE_AB, TOLERANCE_L, loader_row, step_rows, verdict
from photochrom.bench.rivals.task import Task
from photochrom.bench.rivals.train_step import torch_defaults
from photochrom.engine.configuration.parser import parse_options
from PIL import Image
from skimage.color import rgb2lab

# The functions that the OpenCV rival calls, by Pillow and scikit-image: a stand-in for another environment.
CV2 = """
import io
import numpy as np
from PIL import Image
from skimage.color import rgb2lab
__version__ = "a stand-in"
IMREAD_COLOR = INTER_AREA = COLOR_BGR2LAB = 0
setNumThreads = print
def imdecode(jpeg, flags):
    return np.asarray(Image.open(io.BytesIO(jpeg.tobytes())).convert("RGB"))[..., ::-1]
def resize(picture, size, interpolation):
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))
def cvtColor(picture, code):
    return rgb2lab(picture[..., ::-1])
"""


def bench(*argv: str) -> int:
    return rivals(list(argv), "photochrom bench rivals")


def missing(rival: str) -> bool:
    needs = importlib.import_module(f"photochrom.bench.rivals.{rival}").NEEDS
    return any(importlib.util.find_spec(name.split(".")[0]) is None for name in needs)


@pytest.fixture(scope="module")
def settings(photos: Path) -> list[str]:
    """Options of short runs."""
    return ["--data", str(photos), "--size", "64", "--batch-size", "4", "--threads", "1", "--seconds", "0.5"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of data sets that several tests use."""
    return tmp_path_factory.mktemp("rivals")


def test_rows_and_tables_of_a_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "files").mkdir()
    for number in range(9):
        (tmp_path / "files" / f"{number}.jpg").touch()
    throughputs = {"original": 10.0, "opencv": 30.0, "TorchLoader": 60.0}
    check = {"mean_L": 50.0, "mean_abs_ab": 9.0, "error_L": 0.5, "error_ab": 0.1, "num_checked": 9}

    def run(self: EntryRunner, python: Path, name: str, verb: str, fields: dict[str, Any]) -> dict[str, Any]:
        if name == "ffcv":
            return {"skipped": "not installed: name an environment with --python"}
        if verb == "steps":
            rates = {"original": [1.0] * 3, "engine fp32": [2.0] * 3}
            return {"rates(img/s)": rates, "first_loss": dict.fromkeys(rates, 9.0), "batch_size": 2}
        return check if verb == "check" else measurement(throughputs[name])

    monkeypatch.setattr(Datasets, "path", lambda self, reads: tmp_path / "files")
    monkeypatch.setattr(EntryRunner, "_run", run)
    out = tmp_path / "rivals.json"
    only = "original:files:squash,opencv:files:squash,TorchLoader:squashed,ffcv:beton:squash,step"
    assert bench("--data", "x", "--only", only, "--out", str(out)) == 0
    results = json.loads(out.read_text())
    rows = {row["loader"]: row for row in results["rows"]}
    assert {name: rows[name]["median(ratio)"] for name in throughputs} == {"original": 1, "opencv": 3, "TorchLoader": 6}
    assert rows["TorchLoader"]["is_same"] is True
    assert rows["TorchLoader"]["num_rounds"] == 3
    assert rows["engine fp32"]["median(ratio)"] == 2
    assert {entry["loader"] for entry in results["skipped"]} == {"ffcv"}
    printed = capsys.readouterr().out
    assert results["verdict"] in printed
    assert "skipped: ffcv:beton: not installed" in printed
    assert "0.50, 0.10" in printed


@pytest.mark.slow
def test_entries_take_turns(settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "cv2.py").write_text(CV2)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path / "elsewhere"}:$PYTHONPATH exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    out = tmp_path / "rivals.json"
    only = "original:files:squash,opencv:files:squash,TorchLoader:squashed,ffcv:beton:squash"
    assert bench(*settings, "--only", only, "--python", str(python), "--out", str(out)) == 0
    results = json.loads(out.read_text())
    assert results["num_photographs"] == 9
    rows = {row["loader"]: row for row in results["rows"]}
    assert {"original", "opencv", "TorchLoader"} <= rows.keys()
    for row in rows.values():
        assert 0 < row["min(img/s)"] <= row["median(img/s)"] <= row["max(img/s)"]
        assert row["min(ratio)"] <= row["median(ratio)"] <= row["max(ratio)"]
        assert row["num_rounds"] == 3
        assert row["cpu(ms/img)"] > 0
        assert row["first_batch(s)"] > 0
        assert row["num_checked"] == 9
        assert "torch" in row["versions"]
    assert rows["original"]["median(ratio)"] == 1
    assert rows["original"]["error_L"] < 1e-3 > rows["original"]["error_ab"]
    assert 0.01 < rows["TorchLoader"]["error_L"] < 2
    if missing("opencv"):
        assert rows["opencv"]["versions"]["cv2"] == "a stand-in"
    if missing("ffcv"):
        assert [(entry["loader"], "--python" in entry["reason"]) for entry in results["skipped"]] == [("ffcv", True)]
    assert {"files", "reference", "squashed"} <= {made["reads"] for made in results["formats"]}
    assert results["verdict"] in capsys.readouterr().out


@pytest.mark.slow
def test_sigterm_leaves_no_folder(photos: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "photochrom", "bench", "rivals", "--data", str(photos), "--only", "TorchLoader"]
    env = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([*command, "--batch-size", "4"], env=env, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.glob("photochrom-*/files*")):
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        assert process.wait(timeout=60) == 130
        assert process.stderr
        assert process.stderr.read().endswith("photochrom bench: interrupted\n")
    assert not list(tmp_path.glob("photochrom-*"))


@pytest.mark.slow
@pytest.mark.parametrize("rival", [name for name in RIVALS if name not in ("original", "opencv")])
def test_a_rival_makes_the_same_from_its_own_format(rival: str, settings: list[str], work: Path) -> None:
    if missing(rival):
        pytest.skip(f"{rival} is not installed")
    config = parse_options(RivalsOptions, settings, prog="rivals")
    result = EntryRunner(config, work).check(Entry(SQUASH, rival, RIVALS[rival]))
    assert result["num_checked"] == 9
    if rival != "ffcv":  # which cuts another part
        assert result["error_L"] < TOLERANCE_L
        assert result["error_ab"] < TOLERANCE_AB


@pytest.mark.slow
def test_the_training_steps_have_the_same_first_loss(settings: list[str], tmp_path: Path) -> None:
    out = tmp_path / "step.json"
    assert bench(*settings, "--step-batch-size", "2", "--only", "step", "--out", str(out)) == 0
    results = json.loads(out.read_text())
    rows = {row["loader"]: row for row in results["rows"]}
    assert {"original", "engine fp32"} <= rows.keys()
    assert rows["engine fp32"]["is_same"] is True
    assert rows["engine fp32"]["first_loss"] == pytest.approx(rows["original"]["first_loss"], rel=1e-4)
    assert rows["engine fp32"]["num_rounds"] >= 3
    assert "a training step of engine fp32 is" in results["verdict"]


@pytest.mark.skipif(missing("dali_kornia"), reason="dali_kornia is not installed")
@pytest.mark.parametrize("crop", ["squash", "random_resized"])
def test_dali_decodes_on_the_device_of_the_batches(crop: str, photos: Path) -> None:
    fields = {"loader": "dali_kornia", "data": str(photos), "num_photographs": 9, "device": "cuda", "started": 0.0}
    batches = dali_kornia.batches(Task(crop=crop, size=32, batch_size=4, threads=1, **fields))
    if torch.cuda.is_available():
        L, ab, _ = next(batches)
        assert (L.device.type, ab.device.type) == ("cuda", "cuda")
    else:
        with pytest.raises(RuntimeError, match=r"(?i)cuda"):
            next(batches)


def test_the_original_loop_runs_with_torch_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    def settings() -> tuple[bool, str]:
        return torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()

    own = settings()
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    torch.set_float32_matmul_precision("high")
    try:
        with torch_defaults(torch.device("cuda")):
            assert settings() == (False, "highest")
        assert settings() == (True, "high")
        with torch_defaults(torch.device("cpu")):
            assert settings() == (True, "high")
    finally:
        torch.set_float32_matmul_precision(own[1])


def test_pictures_are_compared_with_scikit_image_by_number(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "files").mkdir()
    pictures = [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(5)]
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / "files" / f"{number:06}.png")
    write_reference(tmp_path / "files", tmp_path / "reference", 8)
    lab = torch.tensor(np.stack([rgb2lab(picture) for picture in pictures]), dtype=torch.float32).permute(0, 3, 1, 2)
    orders = [torch.tensor(order) for order in ([3, 1], [1, 0], [4, 3], [2, 0])]
    batches = ((lab[order, :1] + 2, lab[order, 1:], order) for order in cycle(orders))
    fields = {"loader": "", "data": "", "crop": "squash", "device": "cpu", "started": 0.0, "threads": 1}
    result = check(batches, Task(size=8, batch_size=2, num_photographs=5, **fields), str(tmp_path / "reference"))
    assert result["num_checked"] == 5
    assert result["error_L"] == pytest.approx(2, abs=1e-4)
    assert result["error_ab"] == pytest.approx(0, abs=1e-4)
    assert result["mean_L"] == pytest.approx(lab[:, 0].mean().item() + 2, abs=1e-3)
    assert result["mean_abs_ab"] == pytest.approx(lab[:, 1:].abs().mean().item(), abs=1e-3)


def measurement(throughput: float) -> dict[str, Any]:
    return {"rate(img/s)": throughput, "cpu(ms/img)": 1.0, "first_batch(s)": 1.0, "versions": {}}


def test_ratios_are_by_round_and_different_results_are_named() -> None:
    wrong = {"mean_L": 50.0, "mean_abs_ab": 9.0, "error_L": 3.0, "error_ab": 0.1, "num_checked": 9}
    baseline = [measurement(100.0), measurement(50.0), measurement(80.0)]
    measurements = [measurement(300.0), measurement(100.0), measurement(80.0)]
    row = loader_row(Entry(SQUASH, "litdata", "chunks"), measurements, baseline, wrong)
    assert [row[f"{name}(ratio)"] for name in ("median", "min", "max")] == [2, 1, 3]
    assert row["is_same"] is False
    assert "NOT THE SAME RESULT: litdata:chunks" in verdict([row])
    other = loader_row(Entry(SQUASH, "ffcv", "beton"), measurements, baseline, wrong)
    assert other["is_same"] is None
    assert "error_L" not in other
    assert other["crop"] == "the largest square"
    rates = {"original": [1.0], "engine fp32": [2.0]}
    steps = step_rows({"rates(img/s)": rates, "first_loss": {"original": 9.0, "engine fp32": 9.01}, "batch_size": 2})
    assert "NOT THE SAME RESULT: engine fp32:one batch of 2" in verdict(steps)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--only", "original,ffvc"], "there is no entry ffvc; did you mean ffcv?; known are original, opencv"),
        (["--seconds", "0"], "--seconds 0.0 is not positive"),
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


def test_every_rival_has_both_jobs_and_imports_only_its_needs() -> None:
    assert {(name, job) for name in RIVALS for job in (SQUASH, RANDOM)} <= {
        (entry.loader, entry.job) for entry in ENTRIES
    }
    for name, reads in RIVALS.items():
        module = importlib.import_module(f"photochrom.bench.rivals.{name}")
        assert callable(module.batches)
        assert (reads == "files") != hasattr(module, "write")
        assert reads not in SETS
    names = ", ".join(f"photochrom.bench.rivals.{name}" for name in ("runner", *RIVALS))
    code = f"import sys, {names}; print(*({{'torch', 'numpy', 'rich', 'cv2', 'datasets'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
