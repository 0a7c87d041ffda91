import errno
import io
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from photochrom.engine.checkpoints import checkpoint
from photochrom.engine.checkpoints.checkpoint import (
    check_links,
    clear_after,
    list_checkpoints,
    newest_intact,
    open_checkpoint,
    save_checkpoint,
)
from photochrom.engine.training.run import train
from photochrom.pipelines.files import sha256_of


def save(root: Path, step: int, keep: int = 2, content: bytes = b"weights") -> Path:
    return save_checkpoint(
        root,
        step,
        write_model=lambda path: path.write_bytes(content) and None,
        training={"optimizer/weight/step": torch.tensor(step), "scaler": None},
        loader={"position": step},
        totals={"images": 4 * step},
        keep=keep,
    )


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    opened = open_checkpoint(save(tmp_path, 500))
    assert opened.folder.name == "step-00000500"
    assert opened.step == 500
    assert opened.loader == {"position": 500}
    assert opened.totals.images == 2000
    assert opened.model.read_bytes() == b"weights"
    assert opened.training() == {"optimizer/weight/step": torch.tensor(500), "scaler": None}


def test_the_sums_are_those_of_sha256sum(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    assert os.system(f"cd '{folder}' && sha256sum --quiet --check SHA256SUMS") == 0


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        save(tmp_path, step, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000010", "step-00000003"]


NAMES = ("model.safetensors", "training.safetensors", "state.json")
DAMAGES = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "one bit": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*NAMES, "SHA256SUMS"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(tmp_path: Path, name: str, damage: str) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    DAMAGES[damage](newest / name)
    warnings: list[str] = []
    found = newest_intact(tmp_path, warnings.append)
    assert found is not None
    assert found.step == 1
    assert len(warnings) == 1
    assert str(newest) in warnings[0]
    assert warnings[0].endswith("going back to the checkpoint before it")


def test_a_run_without_an_intact_checkpoint_does_not_silently_start_anew(tmp_path: Path) -> None:
    (save(tmp_path, 1) / "state.json").unlink()
    with pytest.raises(ValueError, match=r"none of the checkpoints in .* is intact"):
        newest_intact(tmp_path, lambda warning: None)


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    assert newest_intact(tmp_path / "nowhere", lambda warning: None) is None


@pytest.mark.parametrize("stage", ["model", "sync", "rename"])
def test_a_save_that_fails_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    save(tmp_path, 1, keep=1)
    with monkeypatch.context() as patch:
        if stage == "sync":
            patch.setattr(checkpoint, "sync", full)
        if stage == "rename":
            patch.setattr(Path, "rename", full)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(
                tmp_path,
                2,
                write_model=full if stage == "model" else lambda path: path.touch(),
                training={},
                loader={},
                totals={},
                keep=1,
            )
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert open_checkpoint(tmp_path / "step-00000001").step == 1


def test_later_checkpoints_are_removed_only_if_damaged(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, keep=3)
    said: list[str] = []
    with pytest.raises(ValueError, match=r"step-00000003 is later than step 1, .*name another --out, or remove it"):
        clear_after(tmp_path, 1, said.append)
    (tmp_path / "step-00000003" / "state.json").unlink()
    clear_after(tmp_path, 2, said.append)
    assert said == [f"removing {tmp_path / 'step-00000003'}, which is damaged"]
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000002", "step-00000001"]


def test_a_half_written_checkpoint_is_not_one(tmp_path: Path) -> None:
    save(tmp_path, 1)
    shutil.copytree(tmp_path / "step-00000001", tmp_path / ".step-00000002.tmp")
    assert newest_intact(tmp_path, lambda warning: None).step == 1
    save(tmp_path, 2)
    assert open_checkpoint(tmp_path / "step-00000002").step == 2


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 99)
    folder = save(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="its format is 99, and this photochrom reads format 3"):
        open_checkpoint(folder)


class Bomb:
    """Leaves a mark when pickle, or whatever trusts it, unpickles it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


def planted(mark: Path) -> dict[str, bytes]:
    zipped = io.BytesIO()
    torch.save(Bomb(mark), zipped)
    return {"pickle": pickle.dumps(Bomb(mark)), "torch": zipped.getvalue()}


@pytest.mark.parametrize("kind", ["pickle", "torch"])
@pytest.mark.parametrize("name", [*NAMES, "SHA256SUMS", "config.yaml"])
def test_nothing_in_a_run_folder_executes_code(configure, trained: Path, tmp_path: Path, name: str, kind: str) -> None:
    """The attacker also writes matching sums, and an extra file of each name that Accelerate would load."""
    mark = tmp_path / "executed"
    bomb = planted(mark)[kind]
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints" / "step-00000010")
    folder = run / "checkpoints" / "step-00000020"
    (run / name if name == "config.yaml" else folder / name).write_bytes(bomb)
    if name not in ("SHA256SUMS", "config.yaml"):
        sums = "".join(f"{sha256_of(folder / file)}  {file}\n" for file in NAMES)
        (folder / "SHA256SUMS").write_text(sums)
    for extra in ("custom_checkpoint_0.pkl", "random_states_0.pkl", "optimizer.bin"):
        (folder / extra).write_bytes(bomb)
    with pytest.raises(ValueError, match=str(run)):
        train(configure(run, train__steps=21))
    assert not mark.exists()
    with open(tmp_path / "proof", "wb") as file:
        file.write(bomb)
    torch.load(tmp_path / "proof", weights_only=False) if kind == "torch" else pickle.loads(bomb)
    assert mark.exists(), "the bomb is a dud"


def test_state_is_plain_json(trained: Path) -> None:
    state = json.loads((trained / "checkpoints" / "step-00000020" / "state.json").read_text())
    assert state["step"] == 20
    assert state["loader"]["position"] == 80


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_links(tmp_path)
    assert list(tmp_path.iterdir()) == []

    def refuse(link: Path, target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(ValueError, match=r"checkpoint.best makes a link .* \(Operation not permitted\): name another"):
        check_links(tmp_path)
