"""The memory of a training step, estimated before the first one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from photochrom.engine.configuration.config import ClassSpec
from photochrom.engine.configuration.registry import build_loss, build_model
from photochrom.engine.training.memory import bytes_per_image
from photochrom.engine.training.run import train

CPU = torch.device("cpu")


def test_a_batch_that_does_not_fit_is_refused_before_anything_is_written(configure, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"train\.batch_size=10000000 needs about .* GB .*: try \d+, or raise"
    ) as error:
        train(configure(tmp_path / "run", train__batch_size=10**7))
    assert not (tmp_path / "run").exists()
    assert 0 < int(re.findall(r"try (\d+)", str(error.value))[0]) < 10_000_000


def test_the_number_that_it_names_fits(configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("photochrom.engine.training.memory.available_memory", lambda: 50 << 20)
    settings = {"train__grad_accum_steps": 2, "train__steps": 1}
    with pytest.raises(ValueError, match=r"has 0\.1 GB free: try \d+, or raise") as error:
        train(configure(tmp_path / "run", **settings, train__batch_size=1000))
    fitting = int(re.findall(r"try (\d+)", str(error.value))[0])
    assert fitting % 2 == 0
    assert train(configure(tmp_path / "run", **settings, train__batch_size=fitting))["steps"] == 1


def test_a_network_that_does_not_fit_is_refused(configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("photochrom.engine.training.memory.available_memory", lambda: 1 << 20)
    with pytest.raises(ValueError, match=r"use a smaller network or data\.size, or raise --train\.grad_accum_steps"):
        train(configure(tmp_path / "run"))


def test_the_estimate_counts_what_the_forward_pass_keeps() -> None:
    """A network without nonlinearities keeps the inputs of its layers; the loss keeps its own."""
    network = build_model(ClassSpec(class_path="VGGColorizer", init_args={"width": 0.0625}))
    loss = build_loss(ClassSpec(class_path="L2"))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    small, large = (bytes_per_image(network, loss, size, CPU) for size in (64, 128))
    assert large == pytest.approx(4 * small, rel=0.05)
    assert 4 * 64 * 64 * 4 < small < 100 * 64 * 64 * 4  # the first block alone has 4 channels
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items()), "BatchNorm's, too"


def test_a_batch_above_the_set_is_said(configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(configure(tmp_path / "run", train__batch_size=20, train__steps=1))
    assert "train.batch_size=20 is more than the 9 photographs: a batch holds" in capsys.readouterr().err


STEP_WITH_WATCHED_MEMORY = """
import sys, threading, time
import psutil, torch
from photochrom.engine.configuration.config import ClassSpec
from photochrom.engine.configuration.registry import build_loss, build_model
from photochrom.engine.training.memory import bytes_per_image
from photochrom.pipelines import LabBatch
from photochrom.pipelines.loading.synthetic_loader import random_lab

network = build_model(ClassSpec(class_path="VGGColorizer", init_args={"width": 0.25})).train()
loss, number = build_loss(ClassSpec(class_path="L2")), 32
estimate = number * bytes_per_image(network, loss, 128, torch.device("cpu"))
process, L_ab = psutil.Process(), random_lab(number, 128, seed=0)
before = peak = process.memory_info().rss
done = threading.Event()

def watch():
    global peak
    while not done.is_set():
        peak = max(peak, process.memory_info().rss)
        time.sleep(0.002)

watcher = threading.Thread(target=watch, daemon=True)
watcher.start()
loss(network(L_ab[0]), LabBatch(L=L_ab[0], ab=L_ab[1], index=torch.arange(number))).total.backward()
done.set()
watcher.join()
print((peak - before) / estimate)
"""


@pytest.mark.slow
def test_a_step_takes_what_was_estimated() -> None:
    """As the docs say: 0.95 to 1.6 times."""
    done = subprocess.run([sys.executable, "-c", STEP_WITH_WATCHED_MEMORY], capture_output=True, text=True, check=True)
    assert 0.8 < float(done.stdout) < 1.6
