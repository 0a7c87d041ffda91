import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from photochrom.engine.checkpoints import card as card_module
from photochrom.engine.checkpoints import pretrained
from photochrom.engine.checkpoints.half_precision import without_folders
from photochrom.engine.checkpoints.model_file import load_with_metadata, read_metadata, save_model
from photochrom.engine.cli import main
from photochrom.engine.commands.train import parse
from photochrom.pipelines import ShardSet
from photochrom.pipelines.files import sha256_of


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
    """A converted model has no training to describe, and still gets a card."""
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


def test_a_card_that_cannot_be_written_leaves_no_model(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def no_space(path: Path) -> Iterator[Path]:
        raise OSError(28, "No space left on device", str(path))
        yield

    monkeypatch.setattr(card_module, "atomic_write", no_space)
    out = tmp_path / "new" / "small.safetensors"
    assert main(["export", str(trained), str(out), "--card"]) == 1
    output = capsys.readouterr()
    assert output.err.startswith("photochrom export: ")
    assert "No space left on device" in output.err
    assert output.out == ""
    assert list(out.parent.iterdir()) == []
