import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from photochrom.engine.checkpoints.model_file import load_with_metadata, read_metadata, read_tensors, save_model
from photochrom.engine.cli import main
from photochrom.engine.commands.train import parse
from photochrom.engine.configuration.config import ClassSpec, ModelSpec
from photochrom.engine.training.initial_weights import find_initial_weights, load_initial_weights
from photochrom.engine.training.run import train
from photochrom.models import VGGColorizer
from photochrom.pipelines.files import sha256_of

NARROW = {"width": 0.0625}


def load_into(model: VGGColorizer, file: Path, **settings: object) -> list[str]:
    spec = ModelSpec(class_path="VGGColorizer", init_args=NARROW | settings)
    return list(load_initial_weights(model, spec, find_initial_weights(str(file))))


def test_all_weights_are_taken(trained: Path) -> None:
    model = VGGColorizer(**NARROW)
    (line,) = load_into(model, trained)
    expected = read_tensors(trained / "model.safetensors")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    digest = sha256_of(trained / "model.safetensors")[:12]
    assert line == f"beginning from {trained} (step 20, sha256 {digest}): 82 of 82 tensors"


def test_weights_in_half_precision_are_trained_in_single(trained: Path, tmp_path: Path) -> None:
    assert main(["export", str(trained), str(tmp_path / "half.safetensors")]) == 0
    model = VGGColorizer(**NARROW)
    load_into(model, tmp_path / "half.safetensors")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    stored = read_tensors(tmp_path / "half.safetensors")["to_ab.weight"]
    assert torch.equal(model.to_ab.weight, stored.float())


def test_another_head_begins_anew(trained: Path) -> None:
    model = VGGColorizer(**NARROW, head="bins")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _, line = load_into(model, trained, head="bins")
    assert line == (
        "  settings: model.head ab -> bins; new tensors: bins, to_bins.weight, to_bins.bias; not loaded: to_ab.bias, "
        "to_ab.weight"
    )
    expected = read_tensors(trained / "model.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(
            tensor, before[name] if name in ("bins", "to_bins.weight", "to_bins.bias") else expected[name]
        )


def test_a_setting_that_is_given_again_keeps_its_constants(trained: Path) -> None:
    model = VGGColorizer(**NARROW, normalization="seed")
    _, line = load_into(model, trained, normalization="seed", temperature=1.0)
    assert line.startswith(
        "  settings: model.normalization zhang -> seed, model.temperature 0.38 -> 1.0; new tensors: nor"
    )
    assert torch.equal(
        model.normalization.constants, VGGColorizer(**NARROW, normalization="seed").normalization.constants
    )


def test_another_width_or_class_is_refused(trained: Path) -> None:
    with pytest.raises(
        ValueError, match=r"layers of other shapes .*\(model.width 0.0625 -> 0.125\): omit these options"
    ):
        load_into(VGGColorizer(width=0.125), trained, width=0.125)
    with pytest.raises(ValueError, match=r"is a VGGColorizer, and this run trains a mine.Net: omit --model or"):
        list(
            load_initial_weights(
                VGGColorizer(**NARROW), ModelSpec(class_path="mine.Net"), find_initial_weights(trained)
            )
        )


def test_a_file_that_changes_between_two_processes_is_noticed(trained: Path) -> None:
    source = replace(find_initial_weights(str(trained)), sha256="0" * 64)
    with pytest.raises(ValueError, match="has changed since this command began"):
        list(load_initial_weights(VGGColorizer(**NARROW), ModelSpec(class_path="VGGColorizer"), source))


@pytest.fixture
def zhang(trained: Path, tmp_path: Path) -> str:
    """A model file with settings that are not the defaults, as `convert` writes them."""
    _, metadata = load_with_metadata(trained)
    model = VGGColorizer(width=0.0625, head="bins", temperature=1.0)
    spec = ClassSpec(class_path="VGGColorizer", init_args={"width": 0.0625, "head": "bins", "temperature": 1.0})
    save_model(model.state_dict(), replace(metadata, model=spec), tmp_path / "zhang.safetensors")
    return str(tmp_path / "zhang.safetensors")


def test_the_model_settings_of_the_file_are_taken_and_options_override_them(
    zhang: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--out", str(tmp_path / "run"), "--data.train", "shards"]
    config = parse([*base, "--config", "l2", "--model.init", zhang])  # whose width, head and upsampling differ
    expected = {"width": 0.0625, "normalization": "zhang", "head": "bins", "temperature": 1.0}
    expected |= {"upsampling": "bilinear", "dilation": "auto"}
    assert config.model == ModelSpec(class_path="VGGColorizer", init_args=expected, init=zhang)
    assert config.loss.init_args == {"resolution": "input"}
    replaced = "model.width=1.0, model.normalization=seed, model.upsampling=bicubic"
    assert capsys.readouterr().err == f"the model settings of {zhang} replace {replaced}\n"
    config = parse([*base, "--model.init", zhang, "--model.head", "ab"])
    assert config.model.init_args == expected | {"head": "ab"}
    assert parse([*base, "--model.init", "null"]).model == parse(base).model


def test_the_settings_beside_it_in_a_file_override_it_too(zhang: str, tmp_path: Path) -> None:
    """So the config.yaml of a run, which has both, repeats the run."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": {"init": zhang, "init_args": {"head": "ab"}}}))
    base = ["--out", str(tmp_path / "run"), "--data.train", "shards", "--config", str(tmp_path / "config.yaml")]
    assert parse(base).model.init_args["head"] == "ab"
    assert parse([*base, "--model.init", zhang]).model.init_args["head"] == "bins"


def test_a_model_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--out", "run", "--data.train", "shards", "--model.init", "nowhere"])
    assert "no checkpoint at nowhere" in capsys.readouterr().err


def test_a_run_from_weights_is_resumed_without_them(
    configure, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At another size, batch, loss and head, with an average; and the resumed run ends as the unbroken one does."""
    init = Path(shutil.copytree(trained, tmp_path / "init"))
    digest = sha256_of(init / "model.safetensors")
    shards = str(configure(trained).data.train)
    argv = ["--data.train", shards, "--model.init", str(init), "--model.head", "bins"]
    argv += ["--loss", "RebalancedCrossEntropy"]
    argv += ["--data.size", "48", "--train.batch_size", "2", "--train.ema", "0.9", "--loader.threads", "1"]
    argv += ["--train.device", "cpu", "--train.precision", "fp32", "--log.every", "1"]

    def run(name: str, steps: int, *options: str) -> int:
        return main(["train", "--out", str(tmp_path / name), *argv, "--train.steps", str(steps), *options])

    assert run("whole", 4) == 0
    assert "new tensors: bins, to_bins" in capsys.readouterr().err
    assert run("halves", 2) == 0
    shutil.rmtree(init)
    capsys.readouterr()
    assert run("halves", 4) == 0
    assert "beginning from" not in capsys.readouterr().err
    whole, halves = (read_tensors(tmp_path / name / "model.safetensors") for name in ("whole", "halves"))
    assert all(torch.equal(tensor, halves[name]) for name, tensor in whole.items())
    training = read_metadata(trained / "model.safetensors").training
    assert (training["photographs"], training["images"]) == (9, 80)
    began = {"name": str(init), "sha256": digest, "step": 20, "training": training}
    assert read_metadata(tmp_path / "halves" / "model.safetensors").provenance["init"] == began
    assert json.loads((tmp_path / "halves" / "summary.json").read_text())["provenance"]["init"] == began
    model = yaml.safe_load((tmp_path / "halves" / "config.yaml").read_text())["model"]
    assert (model["init"], model["init_args"]["width"], model["init_args"]["head"]) == (str(init), 0.0625, "bins")

    assert run("halves", 5, "--model.init", str(trained)) == 1
    assert f"began from {init}, not from --model.init {trained}: name another --out" in capsys.readouterr().err


def test_a_run_from_a_run_names_its_ancestors(configure, trained: Path, tmp_path: Path) -> None:
    for name, init in (("one", trained), ("two", tmp_path / "one")):
        model = ModelSpec(class_path="VGGColorizer", init_args=NARROW, init=str(init))
        summary = train(configure(tmp_path / name, model=model, train__steps=1))
    began = summary["provenance"]["init"]
    assert (began["name"], began["step"]) == (str(tmp_path / "one"), 1)
    assert (began["init"]["name"], began["init"]["step"]) == (str(trained), 20)
