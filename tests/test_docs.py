"""Runs what the documentation shows, and follows its links."""

import json
import re
import sys
from pathlib import Path

import photochrom
import pytest
from photochrom.engine.cli import VERBS, main
from photochrom.pipelines import ShardSet

ROOT = Path(photochrom.__file__).parent


def losses(run: Path) -> list[float]:
    lines = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    return [line["train/loss"] for line in lines if "train/loss" in line]


def test_the_custom_loss_of_the_documentation(
    shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands of docs/losses.md, shortened, in the folder of my_losses.py."""
    (code,) = re.findall(r"```python\n# my_losses\.py\n(.*?)```", (ROOT / "docs" / "losses.md").read_text(), re.DOTALL)
    (tmp_path / "my_losses.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])  # not the current folder
    monkeypatch.setitem(sys.modules, "my_losses", sys)  # so that the module is forgotten after the test
    del sys.modules["my_losses"]
    small = ["--data.train", str(shards.root), "--data.size", "32", "--model.width", "0.0625", "--train.steps", "3"]
    small += ["--train.batch_size", "4", "--train.device", "cpu", "--log.every", "1", "--log.trackers", "[]"]
    for out, loss in {
        "focal": ["Focal", "--loss.base", "my_losses.Huber"],
        "mine": ["my_losses.Huber", "--loss.beta", "2"],
        "theirs": ["photochrom.losses.SmoothL1", "--loss.beta", "2"],
    }.items():
        assert main(["train", *small, "--out", out, "--loss", *loss]) == 0
    assert losses(tmp_path / "mine") == losses(tmp_path / "theirs")
    assert losses(tmp_path / "focal") != losses(tmp_path / "mine")
    del sys.modules["my_losses"]
    assert main(["evaluate", "mine", "--data", str(shards.root), "--out", "report"]) == 1
    assert main(["evaluate", "mine", "--plugin", "my_losses", "--data", str(shards.root), "--out", "report"]) == 0
    assert (tmp_path / "report" / "report.html").exists()


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))])
def test_every_link_to_a_file_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), target


def test_every_recipe_and_verb_is_documented() -> None:
    readme, training = ((ROOT / page).read_text() for page in ("README.md", "docs/training.md"))
    for recipe in (ROOT / "recipes").glob("*.yaml"):
        assert f"| `{recipe.stem}` |" in training
    for verb in VERBS:
        assert f"| `photochrom {verb}` |" in readme
    assert len(readme.split()) <= 900
