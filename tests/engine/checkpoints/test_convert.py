"""Files of other projects, converted by the commands that a user types."""

import argparse
import gzip
import hashlib
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import photochrom
import pytest
import torch
from photochrom.engine.checkpoints import convert
from photochrom.engine.cli import main
from photochrom.models import VGGColorizer
from photochrom.models.checkpoint_formats import FORMATS, WRITABLE
from photochrom.pipelines import ShardSet
from safetensors.torch import save_file
from torch import Tensor


def a_model(**settings: object) -> VGGColorizer:
    torch.manual_seed(0)
    model = VGGColorizer(width=0.125, **settings).eval()
    for name, tensor in model.named_parameters():
        if name.startswith("to_"):
            torch.nn.init.normal_(tensor, std=0.1)
    return model


def foreign(name: str, path: Path) -> VGGColorizer:
    """Saves a file as its project would, and returns its model."""
    model = a_model(**FORMATS[name].model_args)
    tensors = {key: tensor.clone().contiguous() for key, tensor in FORMATS[name].expected(model).items()}
    if name.startswith("caffe"):
        tensors["bw_conv1_1.weight"] /= 100
    torch.save(tensors, path)
    return model


def failure(argv: list[str], capsys: pytest.CaptureFixture[str], code: int = 1) -> str:
    assert main(["convert", *argv]) == code
    said = capsys.readouterr()
    assert said.out == ""
    return " ".join(said.err.split())


@pytest.mark.parametrize("name", WRITABLE)
def test_there_and_back(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Read and written again: the same colours all the way."""
    model = foreign(name, tmp_path / "theirs.pt")
    names = ("new/ours.safetensors", "theirs-again.pt", "ours-again.safetensors")
    ours, again, back = (str(tmp_path / name) for name in names)
    assert main(["convert", str(tmp_path / "theirs.pt"), ours, "--size", "64"]) == 0
    said = capsys.readouterr().out
    number = sum(parameter.numel() for parameter in model.parameters())
    assert f"{ours}: {number:,} parameters, read from the format {name}" in " ".join(said.split())

    read, L = photochrom.load(ours), torch.rand(1, 1, 64, 64) * 100
    torch.testing.assert_close(read(L).ab(), model(L).ab(), rtol=0, atol=1e-3)
    assert main(["convert", ours, again, "--to", name]) == 0
    written, first = (torch.load(path, weights_only=True) for path in (again, tmp_path / "theirs.pt"))
    assert written.keys() == first.keys()
    assert all(written[key].shape == first[key].shape for key in first)
    assert main(["convert", again, back]) == 0
    torch.testing.assert_close(photochrom.load(back)(L).ab(), model(L).ab(), rtol=0, atol=1e-3)


def test_a_converted_model_is_evaluated_and_colorizes(shards: ShardSet, photos: Path, tmp_path: Path) -> None:
    foreign("eccv16", tmp_path / "theirs.pt")
    model, report, out = (str(tmp_path / name) for name in ("ours.safetensors", "report", "out"))
    assert main(["convert", str(tmp_path / "theirs.pt"), model, "--size", "64"]) == 0
    assert main(["evaluate", model, "--data", str(shards.root), "--out", report, "--device", "cpu"]) == 0
    (result,) = json.loads((tmp_path / "report" / "summary.json").read_text())["results"]
    assert result["metrics"]["loss"] > 0
    assert main(["colorize", "--model", model, str(photos / "rocket.jpg"), "--out", out, "--device", "cpu"]) == 0


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - WRITABLE.keys()))
def test_caffe_names_are_read(name: str, tmp_path: Path) -> None:
    model = foreign(name, tmp_path / "theirs.pt")
    assert main(["convert", str(tmp_path / "theirs.pt"), str(tmp_path / "ours.safetensors")]) == 0
    L = torch.rand(1, 1, 64, 64) * 100
    torch.testing.assert_close(photochrom.load(tmp_path / "ours.safetensors")(L).ab(), model(L).ab(), rtol=0, atol=1e-3)


def test_a_trained_model_goes_to_another_project(configure, tmp_path: Path) -> None:
    from photochrom.engine.configuration.config import ClassSpec, ModelSpec
    from photochrom.engine.training.run import train

    model = ModelSpec(class_path="VGGColorizer", init_args={"width": 0.0625, "head": "bins"})
    train(configure(tmp_path / "run", model=model, loss=ClassSpec(class_path="RebalancedCrossEntropy"), train__steps=2))
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "eccv16.pth"), "--to", "eccv16"]) == 0
    assert len(torch.load(tmp_path / "eccv16.pth", weights_only=True)) == 82


@pytest.mark.parametrize("name", ["theirs.safetensors", "pytorch_model.bin", "theirs"])
def test_safetensors_are_known_by_their_bytes(name: str, tmp_path: Path) -> None:
    model = foreign("eccv16", tmp_path / "theirs.pth")
    save_file(torch.load(tmp_path / "theirs.pth", weights_only=True), tmp_path / name)
    assert main(["convert", str(tmp_path / name), str(tmp_path / "ours.safetensors")]) == 0
    assert torch.equal(photochrom.load(tmp_path / "ours.safetensors").network.to_bins.weight, model.to_bins.weight)


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{key}": tensor for key, tensor in tensors.items()}


WRAPPINGS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    **{
        f"{key}/": lambda own, key=key: {key: own, "epoch": 3} for key in ("model_state_dict", "model", "params", "net")
    },
    **{f"{prefix}": partial(prefixed, prefix) for prefix in ("module.", "_orig_mod.", "generator.", "netG.module.")},
    "state_dict/model.": lambda own: {
        "state_dict": {**prefixed("model.", own), "loss.weight": torch.ones(313), "step": 3},
        "hyper_parameters": {"lr": 1e-4},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
    },
    "state_dict/model._orig_mod.": lambda own: {"state_dict": prefixed("model._orig_mod.", own)},
    "checkpoint/networks/netG/": lambda own: {"checkpoint": {"networks": {"netG": own, "netD": {"a": torch.ones(2)}}}},
    "1/": lambda own: [{"epoch": 3}, own],
    "model/": lambda own: {"args": argparse.Namespace(lr=1e-4), "model": own},
    "params_ema/, the averaged weights; left out: params/": lambda own: {
        "params": {key: 0 * tensor for key, tensor in own.items()},
        "params_ema": own,
    },
    "": lambda own: {**own, "epoch": 3, "note": "trained by me"},
}


@pytest.mark.parametrize("where", WRAPPINGS)
@pytest.mark.parametrize("name", ["original", "eccv16"])
def test_wrapped_weights_are_found(name: str, where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = foreign(name, tmp_path / "theirs.pth")
    tensors = torch.load(tmp_path / "theirs.pth", weights_only=True)
    torch.save(WRAPPINGS[where](tensors), tmp_path / "wrapped.pth")
    assert main(["convert", str(tmp_path / "wrapped.pth"), str(tmp_path / "ours.safetensors")]) == 0
    assert (f"found in {where}" in capsys.readouterr().out) == bool(where)
    read = photochrom.load(tmp_path / "ours.safetensors").network
    assert torch.equal(read.block1.conv1_1.weight, model.block1.conv1_1.weight)


def test_a_state_dict_of_ours_and_a_program_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "ours.safetensors")
    torch.save({"model": a_model().state_dict()}, tmp_path / "own.pth")
    said = failure([str(tmp_path / "own.pth"), out], capsys)
    assert "its tensors are of a Photochrom network without its settings: name its run or model file" in said
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "script.pt")
    assert "script.pt is a TorchScript program, which is refused" in failure([str(tmp_path / "script.pt"), out], capsys)


def test_of_several_networks_none_is_guessed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign("eccv16", tmp_path / "theirs.pth")
    tensors = torch.load(tmp_path / "theirs.pth", weights_only=True)
    torch.save({"netG_A": tensors, "netG_B": tensors}, tmp_path / "two.pth")
    said = failure([str(tmp_path / "two.pth"), str(tmp_path / "ours.safetensors")], capsys)
    assert "two.pth: it holds several networks (netG_A/, netG_B/): torch.save the one that you want alone" in said


def test_zips_that_are_no_checkpoints_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign("eccv16", tmp_path / "theirs.pth")
    out = str(tmp_path / "ours.safetensors")
    with zipfile.ZipFile(tmp_path / "release.zip", "w") as archive:
        archive.write(tmp_path / "theirs.pth", "theirs.pth")
    said = failure([str(tmp_path / "release.zip"), out], capsys)
    assert "is a zip that torch.save did not write (it holds theirs.pth): unpack it" in said
    bomb = tmp_path / "bomb.pth"
    with (
        zipfile.ZipFile(tmp_path / "theirs.pth") as theirs,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for member in theirs.namelist():
            archive.writestr(member, theirs.read(member))
    assert "is a checkpoint that was zipped again" in failure([str(bomb), out], capsys)
    (tmp_path / "cut.pth").write_bytes((tmp_path / "theirs.pth").read_bytes()[:-1000])
    assert "is cut or damaged: download it again" in failure([str(tmp_path / "cut.pth"), out], capsys)


def test_tensors_that_claim_more_values_than_the_file_has_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without strides, a few bytes would become a network of 8 GB."""
    foreign("eccv16", tmp_path / "theirs.pth")
    tensors = torch.load(tmp_path / "theirs.pth", weights_only=True)
    tensors["model1.0.weight"] = torch.zeros(1, 1, 1, 1).expand(6400, 1, 3, 3)
    torch.save(tensors, tmp_path / "wide.pth")
    out = str(tmp_path / "ours.safetensors")
    assert "does not fit it: model1.0.bias is [8] there and [6400]" in failure(
        [str(tmp_path / "wide.pth"), out], capsys
    )
    wide = FORMATS["eccv16"].expected(VGGColorizer(width=0.125, head="bins"))
    torch.save({key: torch.zeros(()).expand(tensor.shape) for key, tensor in wide.items()}, tmp_path / "wide.pth")
    assert "has fewer values than its shape" in failure([str(tmp_path / "wide.pth"), out], capsys)


def test_nonfinite_weights_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign("eccv16", tmp_path / "theirs.pth")
    tensors = torch.load(tmp_path / "theirs.pth", weights_only=True)
    tensors["model3.2.bias"][1] = torch.nan
    torch.save(tensors, tmp_path / "nan.pth")
    said = failure([str(tmp_path / "nan.pth"), str(tmp_path / "ours.safetensors")], capsys)
    assert "model3.2.bias and 0 more of its tensors have infinite or nan values" in said


def test_half_precision_is_converted_to_float32(tmp_path: Path) -> None:
    foreign("eccv16", tmp_path / "theirs.pth")
    tensors = torch.load(tmp_path / "theirs.pth", weights_only=True)
    torch.save({key: tensor.half() for key, tensor in tensors.items()}, tmp_path / "half.pth")
    assert main(["convert", str(tmp_path / "half.pth"), str(tmp_path / "ours.safetensors")]) == 0
    assert photochrom.load(tmp_path / "ours.safetensors").network.to_bins.weight.dtype == torch.float32


def test_the_metadata_names_the_source(tmp_path: Path) -> None:
    foreign("original", tmp_path / "model_l2.pt")
    assert main(["convert", str(tmp_path / "model_l2.pt"), str(tmp_path / "ours.safetensors")]) == 0
    metadata = convert.load_with_metadata(tmp_path / "ours.safetensors")[1]
    digest = hashlib.sha256((tmp_path / "model_l2.pt").read_bytes()).hexdigest()
    assert metadata.config == {"converted": {"file": "model_l2.pt", "sha256": digest}}
    assert metadata.size == 256
    assert metadata.loss.class_path == "L2"


def test_missing_scale_factors_are_reported_and_can_be_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = foreign("caffe", tmp_path / "theirs.pt")
    tensors = torch.load(tmp_path / "theirs.pt", weights_only=True)
    kept: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if "norm." in key and not key.endswith("scale_factor"):
            kept[key] = tensor * 1000
        elif not key.endswith("scale_factor"):
            kept[key] = tensor
    torch.save(kept, tmp_path / "lost.pt")
    assert main(["convert", str(tmp_path / "lost.pt"), str(tmp_path / "one.safetensors")]) == 0
    assert "try --bn-scale 1000" in " ".join(capsys.readouterr().out.split())
    assert main(["convert", str(tmp_path / "lost.pt"), str(tmp_path / "two.safetensors"), "--bn-scale", "1000"]) == 0
    assert "--bn-scale" not in capsys.readouterr().out
    L = torch.rand(1, 1, 64, 64) * 100
    torch.testing.assert_close(photochrom.load(tmp_path / "two.safetensors")(L).ab(), model(L).ab(), rtol=0, atol=1e-3)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("mark",)


@pytest.mark.parametrize("protocol", ["whole module", "bomb"])
def test_a_file_that_needs_more_than_tensors_is_refused(
    protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(a_model() if protocol == "whole module" else {"conv1_1.weight": Bomb()}, "theirs.pt")
    said = failure(["theirs.pt", "out.safetensors"], capsys)
    objects = "photochrom.models.vgg.VGGColorizer" if protocol == "whole module" else "posix.mkdir"
    assert f"theirs.pt has Python objects ({objects}), which are refused because loading them runs code" in said
    assert sorted(os.listdir(tmp_path)) == ["theirs.pt"]


def test_keys_that_do_not_fit_are_listed_by_name_and_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign("eccv16", tmp_path / "theirs.pth")
    tensors = torch.load(tmp_path / "theirs.pth", weights_only=True)
    del tensors["model3.2.bias"]
    tensors["model9.0.weight"] = torch.zeros(3, 4)
    tensors["model8.6.weight"] = torch.zeros(300, 32, 1, 1)
    torch.save(tensors, tmp_path / "other.pth")
    said = failure([str(tmp_path / "other.pth"), str(tmp_path / "out.safetensors")], capsys)
    assert "other.pth: it has the format eccv16, but does not fit it: model3.2.bias [32] is missing" in said
    assert "model9.0.weight [3, 4] is not part of the model" in said
    assert "model8.6.weight is [300, 32, 1, 1] there and [313, 32, 1, 1] here" in said
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"a": torch.zeros(2)}, "its 1 tensors (a [2] ...) have no known format"),
        ({"conv1_1.weight": torch.tensor(1.0)}, "leaves no channels"),
        ({"state_dict": {"a": torch.zeros(2)}}, "its 1 tensors (a [2] ...) have no known format"),
        ({"model": {"weights": {"a": torch.zeros(2)}}}, "its 1 tensors (a [2] ...) have no known format"),
        ({"epoch": 3}, "is not a state dict, tensors by name"),
        ([torch.zeros(2)], "its 1 tensors (0 [2] ...) have no known format"),
        (b"nothing", "is not a file of plain tensors (UnpicklingError): it is damaged"),
        (b"", "is empty: download it again"),
        (b"\n<!DOCTYPE html><html>quota exceeded", "is a web page or a server's error message, not weights: download"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied', "is a web page or a server's error message, not weights"),
        (b'{"error": "not found"}', "is JSON text, not weights"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            "is a pointer of Git LFS, not weights: run 'git lfs pull'",
        ),
        (b"GGUF\3\0\0\0", "is a GGUF file of llama.cpp, not weights"),
        (gzip.compress(b"weights", mtime=0), "is packed, not weights: unpack it"),
        (b"PK\3\4 and then nothing", "is cut or damaged: download it again"),
        (pickle.dumps({"conv1_1.weight": [1.0]}), "is not a file of plain tensors (UnpicklingError)"),
    ],
    ids=str,
)
def test_invalid_files(content: object, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if isinstance(content, bytes):
        (tmp_path / "theirs.pt").write_bytes(content)
    else:
        torch.save(content, tmp_path / "theirs.pt")
    assert sentence in failure([str(tmp_path / "theirs.pt"), str(tmp_path / "out.safetensors")], capsys)
    assert not (tmp_path / "out.safetensors").exists()


def test_user_errors(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "new" / "out.pt")
    assert "there is no file" in failure([str(tmp_path / "nothing.pt"), out], capsys)
    foreign("eccv16", tmp_path / "theirs.pth")
    said = failure([str(tmp_path / "theirs.pth"), out], capsys, code=2)
    assert "out.pt does not end in .safetensors: name such a file" in said
    assert "is a model of Photochrom already: add --to" in failure([str(trained), out], capsys)
    assert "holds no model.safetensors and no checkpoints" in failure([str(tmp_path), out], capsys)
    said = failure([str(trained), out, "--to", "eccv16"], capsys)
    assert "cannot be written in the format eccv16: it stores networks with the head bins, and this one has ab" in said
    model_file = str(tmp_path / "new" / "out.safetensors")
    said = failure([str(tmp_path / "theirs.pth"), model_file, "--bn-scale", "3"], capsys)
    assert "has the format eccv16, and no scale factors are missing: omit --bn-scale" in said
    assert "is not an intact model file" in failure([str(tmp_path / "theirs.pth"), out, "--to", "eccv16"], capsys)
    assert "theirs.pth exists: name a new file" in failure([str(trained), str(tmp_path / "theirs.pth")], capsys, code=2)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--to", "keras"], "--to=keras: it should be 'original' or 'eccv16'"),
        (["--size", "100"], "--size 100 is not a multiple of 8"),
        (["--bn-scale", "0"], "--bn-scale 0.0 is not a positive number"),
    ],
)
def test_bad_usage(options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["convert", "theirs.pt", "out", *options])
    assert sentence in " ".join(capsys.readouterr().err.split())
