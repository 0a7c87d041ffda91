"""photochrom export CHECKPOINT OUT.onnx"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...pipelines.output_dir import check_output_file
from ..configuration.parser import parse_options
from ..console import console


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Exports a trained network to ONNX, for any batch, height and width, and checks it against torch.

    Args:
        checkpoint: Run folder, checkpoint or model.safetensors.
        out: New file, with a name that ends in .onnx.
        input: Input of the file. lab: L to ab, at the picture's size. rgb: sRGB to sRGB in colour, with its lightness.
        plugin: Python module to import first, for a model of your own.
    """

    checkpoint: Path
    out: Path
    input: Literal["lab", "rgb"] = "lab"
    plugin: str | None = None

    def __post_init__(self) -> None:
        check_output_file(self.out, ".onnx", name="OUT", new=True)


def main(argv: list[str]) -> int:
    config = parse_options(ExportConfig, argv, prog="photochrom export", positional=("checkpoint", "out"))
    from ..checkpoints.onnx import export_onnx  # imports torch: not needed for --help
    from ..configuration.registry import import_plugin

    import_plugin(config.plugin)
    with console.status("exporting"):
        result = export_onnx(config.checkpoint, config.out, kind=config.input)
    print(
        f"{config.out}: {result.num_parameters:,} parameters, {result.num_bytes / 1e6:.1f} MB; onnxruntime and torch "
        f"differ by at most {result.deviation:.1g}"
    )
    return 0
