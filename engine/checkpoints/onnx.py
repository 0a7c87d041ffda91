"""ONNX files of trained networks, each checked against its network before it appears."""

# Shapes: B samples, H W pixels. L in [0, 100], ab in Lab units; rgb is sRGB in [0, 1].

import io
import json
import logging
import operator
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import __version__
from ...models import Colorizer, ColorPrediction
from ...pipelines.files import atomic_write
from ...pipelines.imaging.srgb import EDGE, INTERCEPT, SLOPE, TO_XYZ
from ..configuration.config import to_plain_dict
from ..configuration.registry import build_model
from .model_file import ModelMetadata, load_with_metadata

Input = Literal["lab", "rgb"]

TOLERANCE = 1e-3  # in Lab units, or of rgb's range
INSTALL_ONNX = "pip install onnx onnxruntime onnxscript"

# Sizes to check a file on: sides that are multiples of the network's stride, and others; wide, tall, small.
_SIZES = ((1, 64, 64), (2, 96, 40), (1, 61, 77), (3, 33, 32), (1, 59, 130), (1, 8, 9))
_OPSET = 18
_STEPS = 12  # bisections of chroma: colours at the gamut's edge are then off by less than the tolerance
_MARGIN = 1e-3  # by which a colour of sRGB may lie outside [0, 1], as in `colorize`

_INPUTS = {
    "lab": "L: float32 (batch, 1, height, width), CIE lightness (D65, 2 degree observer) in [0, 100]",
    "rgb": "rgb: float32 (batch, 3, height, width), sRGB in [0, 1]; only its lightness is used",
}
_OUTPUTS = {
    "lab": "ab: float32 (batch, 2, height, width), CIE a and b in Lab units",
    "rgb": "colored: float32 (batch, 3, height, width), sRGB in [0, 1], with the input's lightness; colours that sRGB "
    "cannot show have less chroma",
}


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """The size of an ONNX file, and the largest deviation of onnxruntime from torch."""

    num_parameters: int
    num_bytes: int
    deviation: float


class LabGraph(nn.Module):
    """Computes ab (B, 2, H, W) from L (B, 1, H, W) as `model(L).ab()` does, without branches on height and width."""

    def __init__(self, network: Colorizer) -> None:
        super().__init__()
        self.network = network

    def forward(self, L: Tensor) -> Tensor:
        prediction: ColorPrediction = self.network(L)
        # A cell is a whole number of pixels, so the other cases of ColorPrediction.ab are not needed.
        ab = F.interpolate(
            prediction.grid_ab, scale_factor=float(prediction.stride), mode=prediction.upsampling, align_corners=False
        )
        return ab[..., : L.shape[2], : L.shape[3]]


class RgbGraph(LabGraph):
    """Computes rgb (B, 3, H, W) with the network's colours and the lightness of the input rgb (B, 3, H, W)."""

    luminance: Tensor
    to_rgb: Tensor

    def __init__(self, network: Colorizer) -> None:
        super().__init__(network)
        self.register_buffer("luminance", torch.tensor(TO_XYZ[1], dtype=torch.float32).view(1, 3, 1, 1))
        matrix = torch.tensor(np.linalg.inv(TO_XYZ), dtype=torch.float32)
        self.register_buffer("to_rgb", matrix[..., None, None])

    def forward(self, rgb: Tensor) -> Tensor:
        linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
        Y = (linear * self.luminance).sum(dim=1, keepdim=True)
        L = 116 * torch.where(Y > EDGE, Y.clamp(min=EDGE) ** (1 / 3), SLOPE * Y + INTERCEPT) - 16
        a, b = super().forward(L).split(1, dim=1)
        grey = ((L + 16) / 116).expand(-1, 3, -1, -1)
        chroma = torch.cat([a / 500, torch.zeros_like(a), -b / 200], dim=1)
        linear = self._linear(grey + self._chroma_in_gamut(grey, chroma) * chroma).clamp(0, 1)
        return torch.where(linear > 0.0031308, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055, 12.92 * linear)

    def _linear(self, f: Tensor) -> Tensor:
        """Returns linear rgb (B, 3, H, W) for f = CIE's f(X), f(Y), f(Z)."""
        return F.conv2d(torch.where(f > EDGE ** (1 / 3), f**3, (f - INTERCEPT) / SLOPE), self.to_rgb)

    def _chroma_in_gamut(self, grey: Tensor, chroma: Tensor) -> Tensor:
        """Returns the share (B, 1, H, W) of the chroma of f = grey + chroma that sRGB can show, by bisection."""
        low_limit, high_limit = -_MARGIN / 12.92, ((1 + _MARGIN + 0.055) / 1.055) ** 2.4

        def fits(share: Tensor) -> Tensor:
            linear = self._linear(grey + share * chroma)
            return (linear.amin(dim=1, keepdim=True) > low_limit) & (linear.amax(dim=1, keepdim=True) < high_limit)

        whole = torch.ones_like(grey[:, :1])
        low, step = torch.zeros_like(whole), 1.0
        for _ in range(_STEPS):
            step /= 2
            low = torch.where(fits(low + step), low + step, low)
        return torch.where(fits(whole), whole, low)


_GRAPHS: dict[Input, type[LabGraph]] = {"lab": LabGraph, "rgb": RgbGraph}


def export_onnx(checkpoint: Path, out: Path, *, kind: Input) -> ExportResult:
    """Writes a trained network as one ONNX file of any batch, height and width.

    The file appears only if onnxruntime agrees with torch to `TOLERANCE` on pictures of several sizes. Raises
    ValueError when the network cannot be exported, ImportError naming a missing package.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        _require(name)
    network, metadata = load_with_metadata(checkpoint)
    graph = _GRAPHS[kind](_without_execution_settings(network, metadata)).eval().requires_grad_(False)
    with _quiet():
        model = _to_onnx(graph, metadata, kind)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as file:
        _require("onnx").save(model, file)
        deviation = _deviation(graph, file, kind)
        if not deviation <= TOLERANCE:
            raise ValueError(
                f"{out} was not written: its colours are off from torch's by {deviation:.2g}, more than {TOLERANCE:g}: "
                "does the network branch on the size of its input?"
            )
        size = file.stat().st_size
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return ExportResult(num_parameters=parameters, num_bytes=size, deviation=deviation)


def _without_execution_settings(network: Colorizer, metadata: ModelMetadata) -> Colorizer:
    """Returns the network without the settings that only change how it computes: they branch on sizes."""
    arguments = {name: value for name, value in metadata.model.init_args.items() if name not in network.execution}
    copy = build_model(replace(metadata.model, init_args=arguments))
    copy.load_state_dict(network.state_dict())
    return copy


def _to_onnx(graph: LabGraph, metadata: ModelMetadata, kind: Input) -> Any:
    """Converts the graph to an ONNX ModelProto."""
    dynamic = torch.export.Dim.DYNAMIC
    names = [text.split(":")[0] for text in (_INPUTS[kind], _OUTPUTS[kind])]
    try:
        program = torch.onnx.export(
            graph,
            (_examples(kind, 2, 48, 40),),
            input_names=names[:1],
            output_names=names[1:],
            dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},),
            opset_version=_OPSET,
            verbose=False,
            # onnxscript's own rounds towards zero: -(-61 // 4) would be 15.
            custom_translation_table={operator.floordiv: _floor_division},
        )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ValueError(f"{metadata.model.class_path} cannot be written as ONNX: {reason}") from None
    assert program is not None
    model = program.model_proto
    _describe(model, metadata, kind)
    return model


def _floor_division(a: Any, b: Any) -> Any:
    op = getattr(_require("onnxscript"), f"opset{_OPSET}")
    return op.Div(op.Sub(a, op.Mod(a, b)), b)


def _describe(model: Any, metadata: ModelMetadata, kind: Input) -> None:
    """Documents the file in its metadata, and removes the exporter's own, which holds paths of this machine."""
    model.producer_name, model.producer_version = "photochrom", __version__
    model.doc_string = f"{_INPUTS[kind]}\n{_OUTPUTS[kind]}"
    del model.graph.value_info[:], model.metadata_props[:], model.graph.metadata_props[:]
    model.graph.name, model.graph.doc_string = "photochrom", ""
    for value, text in ((model.graph.input[0], _INPUTS[kind]), (model.graph.output[0], _OUTPUTS[kind])):
        del value.metadata_props[:]
        value.doc_string = text
        for number, name in ((0, "batch"), (2, "height"), (3, "width")):
            value.type.tensor_type.shape.dim[number].dim_param = name
    for part in (*model.graph.node, *model.graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    metadata_props = {
        "photochrom": __version__,
        "input": _INPUTS[kind],
        "output": _OUTPUTS[kind],
        "size": str(metadata.size),
    }
    _require("onnx").helper.set_model_props(model, {**metadata_props, "recipe": json.dumps(to_plain_dict(metadata))})


def _deviation(graph: LabGraph, file: Path, kind: Input) -> float:
    """Returns the largest difference between onnxruntime and torch; nan when a shape is wrong."""
    runtime = _require("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    largest = 0.0
    for size in _SIZES:
        examples = _examples(kind, *size)
        (output,) = session.run(None, {session.get_inputs()[0].name: examples.numpy()})
        expected = graph(examples).numpy()
        if output.shape != expected.shape:
            return float("nan")
        largest = max(largest, float(np.abs(output - expected).max()))
    return largest


def _examples(kind: Input, batch: int, height: int, width: int) -> Tensor:
    """Returns noise in the input's range, the same each time."""
    noise = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(height * width))
    return noise if kind == "rgb" else noise[:, :1] * 100


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses all output of the exporter."""
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _require(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"export needs {name}, which cannot be imported ({error}): {INSTALL_ONNX}") from None
