"""`photochrom export`: what onnxruntime makes of the file, beside torch."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import photochrom
import pytest
import torch
from photochrom.engine.checkpoints import onnx as export
from photochrom.engine.checkpoints.model_file import load_with_metadata, save_model
from photochrom.engine.checkpoints.onnx import LabGraph, RgbGraph
from photochrom.engine.cli import main
from photochrom.engine.configuration.config import ClassSpec
from photochrom.models import Colorizer, ColorPrediction, VGGColorizer
from PIL import Image
from skimage.color import rgb2lab

DOCS = Path(photochrom.__file__).parent / "docs" / "using.md"
SIZES = [(1, 64, 64), (2, 96, 40), (1, 61, 77), (1, 57, 58), (4, 35, 36), (1, 1, 1), (1, 3, 131), (1, 200, 9)]


def run(file: Path, values: np.ndarray) -> np.ndarray:
    (output,) = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(
        None, {onnx.load(file).graph.input[0].name: values}
    )
    return output


def saved(trained: Path, folder: Path, network: Colorizer, spec: ClassSpec) -> Path:
    """A model file of a network with strong colours."""
    last = network.to_ab if network.head == "ab" else network.to_bins
    torch.nn.init.normal_(last.weight, std=1.0 if network.head == "ab" else 4.0)
    _, metadata = load_with_metadata(trained)
    file = folder / "model.safetensors"
    save_model(network.state_dict(), replace(metadata, model=spec), file)
    return file


def network_of(**arguments: Any) -> tuple[VGGColorizer, ClassSpec]:
    arguments = {"width": 0.0625, **arguments}
    return VGGColorizer(**arguments).eval(), ClassSpec(class_path="VGGColorizer", init_args=arguments)


@pytest.mark.parametrize("head", ["ab", "bins"])
@pytest.mark.parametrize("upsampling", ["bilinear", "bicubic"])
def test_the_graph_is_the_model(head: Any, upsampling: Any) -> None:
    """Before it is written: what branches on sizes in the model does not in the graph."""
    network, _ = network_of(head=head, upsampling=upsampling)
    graph = LabGraph(network)
    with torch.inference_mode():
        for batch, height, width in SIZES:
            L = torch.rand(batch, 1, height, width) * 100
            torch.testing.assert_close(graph(L), network(L).ab(), rtol=0, atol=1e-4)


def test_lab(trained: Path, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # Trained with plain convolutions for dilated ones, a way that depends on the sizes.
    file = saved(trained, tmp_path, *network_of(normalization="seed", dilation="space_to_batch"))
    out = tmp_path / "new" / "model.onnx"
    assert main(["export", str(file), str(out)]) == 0
    said = capfd.readouterr()
    assert said.err == ""
    assert said.out.startswith(f"{out}: 126,438 parameters, 0.5 MB; onnxruntime and torch differ by at most ")
    assert [path.name for path in out.parent.iterdir()] == ["model.onnx"]
    model, strongest = photochrom.load(file), 0.0
    for batch, height, width in SIZES:
        L = torch.rand(batch, 1, height, width) * 100
        with torch.inference_mode():
            expected = model(L).ab().numpy()
        made = run(out, L.numpy())
        assert made.dtype == np.float32
        np.testing.assert_allclose(made, expected, rtol=0, atol=1e-3, err_msg=str((batch, height, width)))
        strongest = max(strongest, expected.std())
    assert strongest > 3
    whole = onnx.load(out)
    onnx.checker.check_model(whole, full_check=True)
    facts = {prop.key: prop.value for prop in whole.metadata_props}
    assert (facts["photochrom"], facts["size"]) == (photochrom.__version__, "32")
    assert json.loads(facts["recipe"])["model"]["init_args"]["normalization"] == "seed"
    assert facts["output"].startswith("ab: float32 (batch, 2, height, width)")
    shapes = [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (whole.graph.input[0], whole.graph.output[0])
    ]
    assert shapes == [["batch", 1, "height", "width"], ["batch", 2, "height", "width"]]
    assert [entry.version for entry in whole.opset_import if not entry.domain] == [18]
    assert b".py" not in out.read_bytes().replace(facts["recipe"].encode(), b"")  # no trace of the exporter's machine
    the_example_of_the_documentation(out, photos)


def the_example_of_the_documentation(model: Path, photos: Path) -> None:
    code = re.findall(r"```python\n(import numpy.*?)```", DOCS.read_text(), re.DOTALL)
    folder = model.parent
    photo = Image.open(photos / "coffee.png").convert("RGB")
    photo.save(folder / "old.jpg", quality=100, subsampling=0)
    subprocess.run([sys.executable, "-c", *code], cwd=folder, check=True)
    before, after = (rgb2lab(np.asarray(Image.open(folder / name))) for name in ("old.jpg", "new.png"))
    ours = photochrom.load(folder.parent).colorize(np.asarray(photo))
    exist = ((ours > 20) & (ours < 235)).all(axis=2)  # of other colours, the example clips the rgb
    assert exist.mean() > 0.2
    assert np.abs(after - before)[exist][:, 0].mean() < 0.5
    # scikit-image reduces pictures by another filter, which weighs at the 32 pixels that this network was trained at.
    off = np.abs(after - rgb2lab(ours))[exist][:, 1:].mean()
    assert off < 0.5 * np.abs(after[exist][:, 1:]).mean()


class Convolution(Colorizer):
    """A network of one layer, which takes half the time to export."""

    def __init__(self) -> None:
        super().__init__()
        self.to_ab = torch.nn.Conv2d(1, 2, 4, 4)

    def forward(self, L: torch.Tensor) -> ColorPrediction:
        padded = torch.nn.functional.pad(L, (0, -L.shape[3] % 4, 0, -L.shape[2] % 4))
        return ColorPrediction(output=self.to_ab(padded / 10), input_size=(L.shape[2], L.shape[3]))


@pytest.mark.parametrize("name", ["Convolution", pytest.param("VGGColorizer", marks=pytest.mark.slow)])
def test_rgb(trained: Path, photos: Path, tmp_path: Path, name: str) -> None:
    if name == "Convolution":
        file = saved(trained, tmp_path, Convolution(), ClassSpec(class_path=f"{__name__}.Convolution"))
    else:
        file = saved(trained, tmp_path, *network_of(head="bins", upsampling="bicubic"))
    out = tmp_path / "model.onnx"
    assert main(["export", str(file), str(out), "--input", "rgb"]) == 0
    pixels = np.array(Image.open(photos / "coffee.png").convert("RGB").resize((150, 101)))
    made = run(out, pixels.transpose(2, 0, 1)[None].astype(np.float32) / 255)[0].transpose(1, 2, 0)
    expected = photochrom.load(file).colorize(pixels / 255, size="native")
    before, after, wanted = (rgb2lab(image) for image in (pixels, made, expected))
    assert np.abs(after[..., 0] - before[..., 0]).max() < 0.3
    # `colorize` knows the chroma that sRGB can show to 1/256, the graph to 1/4096.
    assert np.abs(after[..., 1:] - wanted[..., 1:]).max() < 0.8
    assert np.abs(after[..., 1:]).mean() > 5
    for batch, height, width in SIZES:
        rgb = np.random.default_rng(0).random((batch, 3, height, width), np.float32)
        made = run(out, rgb)
        assert made.shape == rgb.shape
        assert 0 <= made.min() <= made.max() <= 1


def test_colours_that_exist_are_not_touched_and_others_lose_chroma_alone() -> None:
    class Painter(Colorizer):
        def forward(self, L: torch.Tensor) -> ColorPrediction:
            half = torch.full((len(L), 1, -(-L.shape[2] // 4), -(-L.shape[3] // 4)), self.colour)
            return ColorPrediction(output=torch.cat([half, -half], dim=1), input_size=(L.shape[2], L.shape[3]))

    painter = Painter()
    grey = torch.linspace(0, 1, 256).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    L = rgb2lab(grey[0].permute(1, 2, 0).numpy())[..., 0]
    for painter.colour in (0.0, 5.0, 60.0):
        lab = rgb2lab(RgbGraph(painter)(grey)[0].permute(1, 2, 0).double().numpy())
        assert np.abs(lab[..., 0] - L).max() < 0.2
        assert np.abs(lab[..., 1] + lab[..., 2]).max() < 0.5  # the hue
        middle = (L > 30) & (L < 70)
        assert np.abs(lab[middle][:, 1] - painter.colour).max() < (0.2 if painter.colour < 50 else 60)


class Branching(Colorizer):
    """A network with a branch on values, which no graph can hold."""

    def __init__(self, limit: int = 60) -> None:
        super().__init__()
        self.limit = limit
        self.to_ab = torch.nn.Conv2d(1, 2, 4, 4)

    def forward(self, L: torch.Tensor) -> ColorPrediction:
        output = self.to_ab(torch.nn.functional.pad(L, (0, -L.shape[3] % 4, 0, -L.shape[2] % 4)))
        if float(L.max()) > self.limit:
            output = -output
        return ColorPrediction(output=output, input_size=(L.shape[2], L.shape[3]))


def test_what_cannot_be_written_is_said(trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spec = ClassSpec(class_path=f"{__name__}.Branching", init_args={})
    file = saved(trained, tmp_path, Branching(), spec)
    assert main(["export", str(file), str(tmp_path / "model.onnx")]) == 1
    said = capfd.readouterr().err
    assert len(said.splitlines()) == 1
    assert "test_onnx.Branching cannot be written as ONNX: " in said
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_file_that_is_wrong_does_not_stay(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    value = onnx.helper.make_tensor_value_info
    shape = ["batch", 1, "height", "width"]
    node = onnx.helper.make_node("Concat", ["L", "L"], ["ab"], axis=1)
    graph = onnx.helper.make_graph([node], "g", [value("L", 1, shape)], [value("ab", 1, ["b", 2, "h", "w"])])
    wrong = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    monkeypatch.setattr(export, "_to_onnx", lambda *_: wrong)
    assert main(["export", str(trained), str(tmp_path / "model.onnx")]) == 1
    assert (
        "model.onnx was not written: its colours are off from torch's by 99, more than 0.001" in capfd.readouterr().err
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["RUN", "model.pt"], 2, "OUT model.pt does not end in .onnx or .safetensors: name such a file"),
        (["RUN", "model.onnx", "--input", "hsv"], 2, "--input=hsv: it should be 'lab' or 'rgb'"),
        (["RUN", "old.onnx"], 2, "OUT old.onnx exists: name a new file, or remove it first"),
        (["nowhere", "model.onnx"], 1, "there is no checkpoint at nowhere"),
    ],
)
def test_what_cannot_be_is_refused(
    trained: Path,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.onnx").write_text("mine")
    try:
        found = main(["export", *(str(trained) if word == "RUN" else word for word in arguments)])
    except SystemExit as left:
        found = int(left.code)  # type: ignore[arg-type]
    assert (found, sentence in capsys.readouterr().err) == (code, True)
    assert [path.name for path in tmp_path.iterdir()] == ["old.onnx"]


@pytest.mark.parametrize("module", ["onnx", "onnxscript", "onnxruntime"])
def test_what_is_to_be_installed_is_named(
    trained: Path, tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["export", str(trained), str(tmp_path / "model.onnx")]) == 1
    said = capsys.readouterr().err
    assert f"export needs {module}" in said
    assert "pip install onnx onnxruntime onnxscript" in said
