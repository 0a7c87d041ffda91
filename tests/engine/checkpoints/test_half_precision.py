import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import photochrom
import pytest
import torch
import yaml
from photochrom.engine.checkpoints import pretrained
from photochrom.engine.checkpoints.half_precision import to_half, without_folders
from photochrom.engine.checkpoints.model_file import load_with_metadata, read_metadata, read_tensors, save_model
from photochrom.engine.cli import main
from photochrom.engine.commands.train import parse
from photochrom.pipelines import ShardSet
from photochrom.pipelines.files import sha256_of


def test_weights_are_halved_and_load_in_fp32(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "small.safetensors"
    assert main(["export", str(trained), str(out)]) == 0
    assert capsys.readouterr().out.startswith(
        f"{out}: 126,438 parameters, 0.3 MB in half precision, which changes ab by"
    )
    network, halved = photochrom.load(trained).network, photochrom.load(out).network
    stored, parameters = read_tensors(out), dict(network.named_parameters())
    for name, tensor in network.state_dict().items():
        expected = tensor.half() if name in parameters else tensor
        assert torch.equal(stored[name], expected)
        assert stored[name].dtype == expected.dtype
        assert torch.equal(halved.state_dict()[name], expected.to(tensor.dtype))
    L = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 100
    torch.testing.assert_close(halved(L).ab(), network(L).ab(), rtol=0, atol=0.1)
    (tmp_path / "other").touch()
    assert out.stat().st_mode == (tmp_path / "other").stat().st_mode  # readable for those who may read other files
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_what_is_beyond_the_range_of_half_stays_in_single_precision(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert to_half(torch.tensor([1.0, 65504.0])).dtype == torch.float16
    assert to_half(torch.tensor([1.0, 70000.0])).dtype == torch.float32
    network, metadata = load_with_metadata(trained)
    with torch.no_grad():
        network.block7.norm7.weight[0] = 7e4
    network.block7.norm7.running_var[:] = 1e-9  # would be 0
    save_model(network.state_dict(), metadata, tmp_path / "extreme.safetensors")
    assert main(["export", str(tmp_path / "extreme.safetensors"), str(tmp_path / "half.safetensors")]) == 0
    assert "beyond the range of half: block7.norm7.weight\n" in capsys.readouterr().out
    halved = photochrom.load(tmp_path / "half.safetensors").network.state_dict()
    for name in ("block7.norm7.weight", "block7.norm7.running_var"):
        assert torch.equal(halved[name], network.state_dict()[name])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/me/shards/open", "open"),
        ("../shared/open", "open"),
        ("~/open", "open"),
        ("/open", "open"),
        ("shards/open", "shards/open"),
        ("s3://bucket/open", "s3://bucket/open"),
        ("train --data.train [/a/b,/a/c] --out=/tmp/run -m '../x y'", "train --data.train [b,c] --out=run -m 'x y'"),
        ("3/4 of a/b", "3/4 of a/b"),
    ],
)
def test_paths_lose_the_folders_of_this_machine(text: str, expected: str) -> None:
    assert without_folders({"a": [text, 1, None]}) == {"a": [expected, 1, None]}


@pytest.fixture(scope="module")
def report(trained: Path, shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reports") / "report"
    command = ["evaluate", str(trained), "--data", str(shards.root), "--out", str(out), "--gallery", "1"]
    assert main([*command, "--baseline", "grey"]) == 0
    return out


def test_a_card_says_all_that_is_known(
    trained: Path, report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small.safetensors"
    command = ["export", str(trained), str(out), "--card", "--scores", str(report), "--data-note", "CC0, by NASA."]
    assert main([*command, "--limits", "Nine photographs only."]) == 0
    assert capsys.readouterr().out.endswith(f"\n{tmp_path / 'small.md'}\n")
    card, metadata = (tmp_path / "small.md").read_text(), read_metadata(out)
    assert card.startswith(
        "# small\n\nA VGGColorizer (width 0.0625) of 126,438 parameters that colorizes photographs. "
    )
    assert "## Limits\n\nNine photographs only.\n\n## Data\n\nCC0, by NASA.\n\n" in card
    assert "| training set | `nine` |\n| validation set | `nine` |\n| photographs to train on | 9 |\n" in card
    assert f"| digest of the training set | `{metadata.data}` |" in card
    assert "| steps | 20 |\n| images drawn | 80 |\n| training time | 0 minutes |\n| machine | " in card
    assert f"sha256 `{sha256_of(out)}`" in card
    assert str(tmp_path.parent) not in card + json.dumps(metadata.config | metadata.provenance)
    (entry,) = json.loads((report / "summary.json").read_text())["results"][:1]
    assert f"| `nine` (trained on) | 9 | 32 | this model | {entry['metrics']['rmse_ab']:.2f} | " in card
    assert metadata.scores == [without_folders(entry)]
    (recipe,) = card.split("```yaml\n")[1:]
    (tmp_path / "recipe.yaml").write_text(recipe.partition("```")[0])
    again = parse(["--config", str(tmp_path / "recipe.yaml"), "--out", "new"])
    assert (again.train.steps, again.model.init_args["width"]) == (20, 0.0625)


def test_a_card_says_what_is_to_be_filled_in(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also on a model of which less is known, such as a converted one."""
    network, metadata = load_with_metadata(trained)
    unknown = replace(metadata, data="", config={"converted": {"file": "a.pth"}}, provenance={}, training={})
    save_model(network.state_dict(), unknown, tmp_path / "converted.safetensors")
    out = tmp_path / "small.safetensors"
    assert main(["export", str(tmp_path / "converted.safetensors"), str(out), "--card"]) == 0
    assert capsys.readouterr().out.endswith("small.md: what begins with FILL IN: only you know\n")
    card = (tmp_path / "small.md").read_text()
    assert card.count("FILL IN: ") == 2
    assert "Not evaluated." in card
    assert yaml.safe_load(card.partition("```yaml\n")[2].partition("```")[0]) == unknown.config


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a.onnx", "--card"], "--card needs a model file: let OUT a.onnx end in .safetensors"),
        (["a.onnx", "--scores", "b"], "--scores needs a model file: let OUT a.onnx end in .safetensors"),
        (["a.safetensors", "--limits", "b"], "--limits is for a card: add --card"),
        (["old.safetensors", "--card"], "the card old.md exists: name a new file, or remove it first"),
        (["a.pt"], "OUT a.pt does not end in .onnx or .safetensors: name such a file"),
        (["a.safetensors", "--scores", "nowhere"], "--scores nowhere is not a report of photochrom evaluate (FileNot"),
        (["a.safetensors", "--scores", "other"], "--scores other has no scores of trained, only of grey"),
        (["a.safetensors", "--scores", "stale"], "--scores stale is of step 3, and "),
    ],
)
def test_what_cannot_be_exported(
    trained: Path,
    tmp_path: Path,
    arguments: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("old.md").touch()
    for name, checkpoint in (("other", "grey"), ("stale", "trained")):
        Path(name).mkdir()
        Path(name, "summary.json").write_text(json.dumps({"results": [{"checkpoint": checkpoint, "step": 3}]}))
    with suppress(SystemExit):
        assert main(["export", str(trained), *arguments]) == 1
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.glob("a.*"))


def test_a_card_counts_the_runs_that_the_run_began_from(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "_FOLDER", tmp_path / "pretrained")
    network, metadata = load_with_metadata(trained)
    first = {"name": "zhang", "sha256": "1" * 64, "step": 0, "training": {}}
    second = {"name": "/runs/at-64", "sha256": "2" * 64, "step": 5000, "init": first}
    second["training"] = {"images": 160_000, "seconds": 5400}
    provenance = {**metadata.provenance, "init": second}
    training = {"photographs": 9, "images": 40_000, "seconds": 1800, "machine": "a computer"}
    metadata = replace(metadata, provenance=provenance, training=training)
    save_model(network.state_dict(), metadata, tmp_path / "a.safetensors")
    out = tmp_path / "pretrained" / "small.safetensors"
    assert main(["export", str(tmp_path / "a.safetensors"), str(out), "--card"]) == 0
    card = out.with_suffix(".md").read_text()
    assert "| images drawn | 40,000; 200,000 with the runs that it began from |" in card
    assert "| training time | 30 minutes; 2.0 hours with the runs that it began from |" in card
    ancestors = f"`at-64` (step 5,000, sha256 `{'2' * 64}`); that from `zhang` (step 0, sha256 `{'1' * 64}`)"
    assert f"| began from | {ancestors} |" in card
    assert "photochrom colorize old.jpg --model small\n" in card
