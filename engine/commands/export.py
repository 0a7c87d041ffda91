"""photochrom export CHECKPOINT OUT"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ...pipelines.output_dir import check_output_file
from ..configuration.parser import parse_options
from ..console import console, say

_HALF = ".safetensors"


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Exports a trained network to ONNX, for any batch, height and width, or to a model file in half precision.

    ONNX files are checked against torch.

    Args:
        checkpoint: Run folder, checkpoint, model.safetensors, or a shipped model by name.
        out: New file, with a name that ends in .onnx or .safetensors.
        input: Input of an ONNX file. lab: L to ab, at the picture's size. rgb: sRGB to sRGB in colour, with its
            lightness.
        card: Also write a model card beside the .safetensors file, with the ending .md.
        scores: Reports of photochrom evaluate on this model, for the header of the .safetensors file and its card.
        data_note: Sentence for the card on the origin and licences of the photographs. Default: one to fill in.
        limits: Sentence for the card on what the model cannot do. Default: one to fill in.
        plugin: Python module to import first, for a model of your own.
    """

    checkpoint: Path
    out: Path
    input: Literal["lab", "rgb"] = "lab"
    card: bool = False
    scores: list[Path] = field(default_factory=list)
    data_note: str | None = None
    limits: str | None = None
    plugin: str | None = None

    def __post_init__(self) -> None:
        check_output_file(self.out, ".onnx", _HALF, name="OUT", new=True)
        given = {"--card": self.card, "--scores": self.scores}
        if self.out.suffix != _HALF and (options := [option for option, value in given.items() if value]):
            raise ValueError(f"{options[0]} needs a model file: let OUT {self.out} end in {_HALF}")
        if self.out.suffix == _HALF and self.input == "rgb":
            raise ValueError(f"--input rgb needs an ONNX file: let OUT {self.out} end in .onnx")
        if self.card:
            check_output_file(self.out.with_suffix(".md"), name="the card", new=True)
        elif self.data_note or self.limits:
            raise ValueError(f"{'--data-note' if self.data_note else '--limits'} is for a card: add --card")


def main(argv: list[str]) -> int:
    config = parse_options(ExportConfig, argv, prog="photochrom export", positional=("checkpoint", "out"))
    from ..configuration.registry import import_plugin  # imports torch: not needed for --help

    import_plugin(config.plugin)
    if config.out.suffix == _HALF:
        _export_half(config)
    else:
        _export_onnx(config)
    return 0


def _export_onnx(config: ExportConfig) -> None:
    from ..checkpoints.onnx import export_onnx

    with console.status("exporting"):
        result = export_onnx(config.checkpoint, config.out, kind=config.input)
    say(
        f"{config.out}: {result.num_parameters:,} parameters, {result.num_bytes / 1e6:.1f} MB; onnxruntime and torch "
        f"differ by at most {result.deviation:.1g}"
    )


def _export_half(config: ExportConfig) -> None:
    from ..checkpoints.card import FILL_IN, read_scores, write_card
    from ..checkpoints.half_precision import export_half

    scores = read_scores(config.scores, config.checkpoint)
    card = None
    try:
        with console.status("exporting"):
            result, metadata = export_half(config.checkpoint, config.out, scores=scores)
        if config.card:
            card = write_card(config.out, metadata, result, data_note=config.data_note, limits=config.limits)
    except BaseException:
        config.out.unlink(missing_ok=True)  # or the same command would refuse a file that exists
        raise
    say(
        f"{config.out}: {result.num_parameters:,} parameters, {result.num_bytes / 1e6:.1f} MB in half precision, which "
        f"changes ab by {result.rmse_ab:.2g} (RMSE), at most by {result.max_ab:.2g}, on photographs of scikit-image"
    )
    if result.kept:
        say(f"  in single precision, since their values are beyond the range of half: {', '.join(result.kept)}")
    if card:
        is_whole = FILL_IN not in card.read_text()
        say(f"{card}" if is_whole else f"{card}: what begins with {FILL_IN} only you know")
