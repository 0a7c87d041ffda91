import json
from contextlib import suppress
from pathlib import Path

import photochrom
import pytest
import torch
from photochrom.engine.checkpoints.half_precision import to_half, without_folders
from photochrom.engine.checkpoints.model_file import load_with_metadata, read_tensors, save_model
from photochrom.engine.cli import main


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
        ("../sets/open", "open"),
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


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a.onnx", "--card"], "--card needs a model file: let OUT a.onnx end in .safetensors"),
        (["a.onnx", "--scores", "b"], "--scores needs a model file: let OUT a.onnx end in .safetensors"),
        (["a.safetensors", "--input", "rgb"], "--input rgb needs an ONNX file: let OUT a.safetensors end in .onnx"),
        (["a.safetensors", "--limits", "b"], "--limits is for a card: add --card"),
        (["old.safetensors", "--card"], "the card old.md exists: name a new file, or remove it first"),
        (["a.pt"], "OUT a.pt does not end in .onnx or .safetensors: name such a file"),
        (["a.safetensors", "--scores", "nowhere"], "--scores nowhere is not a report of photochrom evaluate (FileNot"),
        (["a.safetensors", "--scores", "other"], "--scores other does not score trained; it scores grey"),
        (["a.safetensors", "--scores", "stale"], "--scores stale is of another model than "),
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
        Path(name, "summary.json").write_text(json.dumps({"results": [{"checkpoint": checkpoint, "sha256": "3"}]}))
    with suppress(SystemExit):
        assert main(["export", str(trained), *arguments]) == 1
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.glob("a.*"))
