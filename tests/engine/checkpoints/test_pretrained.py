import shutil
from pathlib import Path

import photochrom
import pytest
from photochrom.engine.checkpoints import pretrained
from photochrom.engine.checkpoints.card import FILL_IN
from photochrom.engine.checkpoints.model_file import model_file
from photochrom.engine.cli import main
from photochrom.engine.commands.train import parse
from photochrom.pipelines import ShardSet


@pytest.fixture
def shipped(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of shipped models with two of them; the current folder is an empty one."""
    folder = tmp_path / "pretrained"
    folder.mkdir()
    for name in ("small-l2", "small-other"):
        shutil.copy(trained / "model.safetensors", folder / f"{name}.safetensors")
    monkeypatch.setattr(pretrained, "_FOLDER", folder)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return folder


def test_a_name_is_a_model_for_all_commands(
    shipped: Path, shards: ShardSet, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert photochrom.load("small-other").metadata.step == 20
    assert parse(["--out", "run", "--data.train", "a", "--model.init", "small-l2"]).model.init_args["width"] == 0.0625
    assert main(["evaluate", "small-l2", "--data", str(shards.root), "--out", "report", "--gallery", "1"]) == 0
    assert "small-l2-on-nine, step 20" in capsys.readouterr().out
    assert main(["convert", "small-l2", "other.pt", "--to", "original"]) == 1
    assert "small-l2 cannot be written in the format original" in capsys.readouterr().err


def test_colorize_takes_the_default_model(
    shipped: Path, trained: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["colorize", str(photos / "rocket.jpg")]) == 0
    assert Path("colorized/rocket.jpg").exists()
    assert main(["colorize", "--model", "small-l2", str(photos / "rocket.jpg")]) == 0
    assert "0 colorized, 1 kept" in capsys.readouterr().out
    shutil.copy(trained / "checkpoints/step-00000010/model.safetensors", shipped / "small-other.safetensors")
    assert main(["colorize", "--model", "small-other", str(photos / "rocket.jpg")]) == 1
    assert "were made by another model or at another size (small-l2 with sha256" in capsys.readouterr().err


def test_a_path_that_exists_counts_more_than_a_name_but_not_for_the_default(shipped: Path, trained: Path) -> None:
    shutil.copytree(trained, "small-l2")
    assert model_file(Path("small-l2")) == Path("small-l2/model.safetensors")
    assert pretrained.default_model() == shipped / "small-l2.safetensors"


def test_an_unknown_name_is_answered_with_the_known_ones(shipped: Path) -> None:
    known = r"a shipped model \(small-l2, small-other\)"
    with pytest.raises(ValueError, match=rf"no checkpoint at small-l3; did you mean small-l2\? .* or {known}"):
        photochrom.load("small-l3")


def test_a_folder_without_models_is_one_sentence(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in shipped.iterdir():
        file.unlink()
    for argv in (["colorize", "old.jpg"], ["serve", "--port", "0"]):
        assert main(argv) == 1
        assert "the default model, small-l2, does not come with this installation: name" in capsys.readouterr().err
    assert main(["models"]) == 0
    assert capsys.readouterr().out == "no model comes with this installation\n"
    with pytest.raises(ValueError, match=r"or a shipped model \(this installation has none\)"):
        photochrom.load("small-l2")


def test_the_models_are_listed(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    heading, first, second, folder = capsys.readouterr().out.splitlines()
    assert heading.split()[:4] == ["model", "loss", "head", "width"]
    assert first.split() == ["small-l2", "(default)", "L2", "0.0625", "32", "80", "0.5"]
    assert second.split() == ["small-other", "L2", "0.0625", "32", "80", "0.5"]
    assert folder.endswith(str(shipped))


@pytest.mark.parametrize("name", sorted(pretrained.pretrained_models()))
def test_a_shipped_model_loads_and_has_a_card(name: str) -> None:
    file = pretrained.pretrained_models()[name]
    assert photochrom.load(name).metadata.scores
    assert file.stat().st_size < 5e6
    card = file.with_suffix(".md").read_text()
    assert card.startswith(f"# {name}\n")
    assert FILL_IN not in card
