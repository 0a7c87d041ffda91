import shlex
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from photochrom.engine import provenance as module
from photochrom.engine.provenance import provenance


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout with one commit, in Photochrom's place."""
    monkeypatch.setattr(module, "_ROOT", tmp_path)
    module._git_state.cache_clear()
    git = ["git", "-c", "user.name=n", "-c", "user.email=e", "-C", str(tmp_path)]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    yield tmp_path
    module._git_state.cache_clear()


def test_commit_command_and_time_are_recorded(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["photochrom", "train", "--out", "my run"])
    record = provenance()
    head = subprocess.run(
        ["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert (record["commit"], record["dirty"]) == (head, False)
    assert shlex.split(record["command"]) == sys.argv
    assert abs((datetime.now().astimezone() - datetime.fromisoformat(record["time"])).total_seconds()) < 60


def test_changed_files_make_it_dirty(checkout: Path) -> None:
    (checkout / "new.py").write_text("")
    assert provenance()["dirty"] is True


def test_an_installed_package_has_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / ".git").rename(checkout / "git")
    record = provenance()
    assert (record["commit"], record["dirty"]) == (None, None)


def test_a_machine_without_git_has_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    record = provenance()
    assert (record["commit"], record["dirty"]) == (None, None)
