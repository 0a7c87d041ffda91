"""photochrom convert FILE OUT"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...pipelines.output_dir import check_output_file
from ...pipelines.ranges import POSITIVE, check_ranges
from ..configuration.config import check_image_size
from ..configuration.parser import UsageError, parse_options
from ..console import say


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Converts another project's weights to a model file, or a model to a file for another project.

    It reads the original project's model_l2.pt and model_l2_focal.pt, the PyTorch release of the ECCV 2016 colorizer,
    and files with the tensor names of its Caffe release.

    Args:
        file: Weights of another project, whose format is detected; or a run, a checkpoint, a model file or a shipped
            model by name.
        out: New file: a model.safetensors, or with --to a file for torch.load.
        to: Format for a model of Photochrom: original, or eccv16.
        size: Side in pixels of the network's input, for weights of another project.
        bn_scale: Scale factor of Caffe's BatchNorm, its third blob, for files without it.
    """

    file: Path
    out: Path
    to: Literal["original", "eccv16"] | None = None
    size: int = 256
    bn_scale: float | None = None

    def __post_init__(self) -> None:
        check_image_size(self.size, "--size ")
        check_ranges(self, bn_scale=POSITIVE)


def main(argv: list[str]) -> int:
    config = parse_options(ConvertConfig, argv, prog="photochrom convert", positional=("file", "out"))
    from ..checkpoints.convert import (  # imports torch: not needed for --help
        export_weights,
        import_weights,
        is_photochrom_model,
    )

    if not config.to and config.file.suffix and not config.file.exists():
        raise ValueError(f"there is no file {config.file}: name the weights of another project, or a model")
    is_foreign = not config.to and not is_photochrom_model(config.file)
    try:
        check_output_file(config.out, *((".safetensors",) if is_foreign else ()), name="OUT", new=True)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if config.to:
        done = export_weights(config.file, config.out, to=config.to)
    elif is_foreign:
        done = import_weights(config.file, config.out, size=config.size, bn_scale=config.bn_scale)
    else:
        raise ValueError(f"{config.file} is a model of Photochrom already: add --to with the format to write")
    verb = "written in" if config.to else "read from"
    say(f"{config.out}: {done.num_parameters:,} parameters, {verb} the format {done.format}")
    for note in done.notes:
        say(f"  {note}")
    return 0
