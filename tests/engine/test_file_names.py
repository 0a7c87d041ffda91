"""Inputs and outputs of all verbs under names that file systems allow, and that shells or libraries read otherwise."""

import glob
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from photochrom.engine.checkpoints.model_file import load_with_metadata, save_model, unique_name
from photochrom.engine.checkpoints.weight_file import load_weight_file
from photochrom.engine.cli import VERBS, main
from photochrom.pipelines import ShardSet
from PIL import Image

BYTES = os.fsdecode(b"caf\xe9 \x1b[31m\xe2\x80\xae")  # Latin-1, an escape sequence and a bidirectional override
NAMES = [
    BYTES,
    "new\nline [abc]?* ~$(x);|&'\"\\u",
    "-dash:100%d%s{0}#hash?x=1 ",
    "[x, y]",  # a list, as YAML has it
    "null",
    "http:x@y",
    249 * "n",  # with an ending of six letters, the longest name
]


def make_photos(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 12, 3), np.uint8)
        Image.fromarray(pixels).resize((96, 64), Image.Resampling.BICUBIC).save(folder / name, "JPEG")


def test_a_shard_set_under_a_name_that_is_not_utf_8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """DALI takes no such path."""
    make_photos(tmp_path / BYTES, f"{BYTES}.jpg", "b.jpg")
    out = str(tmp_path / f"{BYTES}\nout")
    assert main(["pack", str(tmp_path / BYTES), out, "--workers", "1", "--short-side", "64"]) == 0
    assert main(["verify", out]) == 0
    assert capsys.readouterr().out.endswith("caf\\udce9 \\x1b[31m\\u202e\\nout: 1 shard as the manifest says\n")
    assert ShardSet.open(out).num_samples == 2


def test_a_model_under_a_name_that_is_not_utf_8(trained: Path, tmp_path: Path) -> None:
    """Safetensors takes no such path."""
    model, metadata = load_with_metadata(trained)
    save_model(model.state_dict(), metadata, tmp_path / BYTES)
    assert load_with_metadata(tmp_path / BYTES)[1] == metadata
    assert load_weight_file(tmp_path / BYTES).keys() == model.state_dict().keys()


def test_names_of_results_leave_room_for_two_of_them() -> None:
    assert unique_name("a", ["a"]) == "a-2"
    assert unique_name(300 * "a", [100 * "a"]) == 100 * "a" + "-2"
    assert unique_name(80 * "ü", []) == 50 * "ü"
    assert unique_name(BYTES, []) == BYTES


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.encode("unicode_escape").decode()[:12])
def test_all_verbs_take_any_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are given relatively, as a person does, with ./ before those that an option or a list begins with."""
    monkeypatch.chdir(tmp_path)
    make_photos(Path(f"in/{name}"), f"{name}.jpg", "z.jpg")
    with tarfile.open(f"in/{name}.tar", "w") as archive:
        archive.add(f"in/{name}", name)
    used = set()

    def run(verb: str, *arguments: str) -> None:
        used.add(verb)
        assert main([verb, *arguments]) == 0, arguments

    small = ["--workers", "1", "--short-side", "64"]
    run("pack", f"in/{name}", f"./{name}", *small)
    run("pack", f"in/{name}.tar", "of-tar", *small)
    run("stats", f"./{name}")
    run("verify", f"./{name}", "--decode", "--workers", "1")
    Path("shards").mkdir()
    with tarfile.open(f"shards/{name}.tar", "w") as archive:
        archive.add(f"in/{name}/z.jpg", "z.jpg")
    run("index", "shards", "--workers", "1")
    network = ["--model.width", "0.0625", "--model.normalization", "seed", "--model.upsampling", "bicubic"]
    sizes = ["--data.size", "32", "--train.batch_size", "2", "--train.steps", "1", "--checkpoint.best", "rmse_ab"]
    run("train", "--data.train", f"./{name}", "--data.val", f"./{name}", "--out", f"run/{name}", *network, *sizes)
    run("evaluate", f"run/{name}", "--data", f"./{name}", "--size", "32", "--out", f"report/{name}")
    run("export", f"run/{name}", f"run/{name[:240]}.onnx")
    run("export", f"run/{name}", f"run/{name[:240]}.safetensors", "--card")
    run("convert", f"run/{name}", f"run/{name[:240]}.pt", "--to", "original")
    run("colorize", f"in/{name}", f"in/{glob.escape(name)}/*.jpg", "--model", f"run/{name}", "--out", f"colour/{name}")
    assert Path(f"colour/{name}/{name}.jpg").exists()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(os.fsencode(f"./in/{name}/{name}.jpg\0"))))
    run("colorize", "-", "--model", f"run/{name}", "--out", f"listed/{name}")
    assert Path(f"listed/{name}/{name}.jpg").exists()
    assert used == VERBS.keys() - {"models", "doctor", "bench", "serve"}


@pytest.mark.slow
def test_a_long_tmpdir(tmp_path: Path) -> None:
    """The path of a socket has at most 107 bytes."""
    make_photos(tmp_path / "photos", "a.jpg")
    (tmp_path / (200 * "t")).mkdir()
    command = [sys.executable, "-m", "photochrom", "pack", "photos", "out", "--workers", "1", "--short-side", "64"]
    environment = os.environ | {"TMPDIR": str(tmp_path / (200 * "t"))}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, capture_output=True)
