"""photochrom convert FILE OUT"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...pipelines.output_dir import check_output_file
from ..configuration.config import check_image_size
from ..configuration.parser import parse_options


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Makes a model file of another project's weights, or writes those of a model of ours for another project.

    Known are the original project's model_l2.pt and model_l2_focal.pt, the PyTorch release of the ECCV 2016 colorizer,
    and files with the names of its Caffe release.

    Args:
        file: Another project's weights, which are recognised by their names; or a run, a checkpoint or a model file.
        out: New file, a model.safetensors, or with --to, what torch.load reads.
        to: Layout to write a model of ours in, original, eccv16, caffe (blobs as caffemodel2pytorch dumps them) or
            caffe-torch (the same names, BatchNorm as PyTorch has it).
        size: Side in pixels that the network of another project is to see.
        bn_scale: Scale factor of Caffe's BatchNorm, the third blob, for files that have lost it.
    """

    file: Path
    out: Path
    to: Literal["original", "eccv16", "caffe", "caffe-torch"] | None = None
    size: int = 256
    bn_scale: float | None = None

    def __post_init__(self) -> None:
        check_image_size(self.size, "--size ")
        if self.bn_scale is not None and not self.bn_scale > 0:
            raise ValueError(f"--bn-scale {self.bn_scale} is not positive")


def main(argv: list[str]) -> int:
    config = parse_options(ConvertConfig, argv, prog="photochrom convert", positional=("file", "out"))
    from ..checkpoints.convert import export_weights, import_weights, is_ours  # imports torch: not needed for --help

    if not config.file.exists():
        raise ValueError(f"there is no file or folder {config.file}")
    is_foreign = not config.to and not is_ours(config.file)
    check_output_file(config.out, *((".safetensors",) if is_foreign else ()), name="OUT", new=True)
    if config.to:
        done = export_weights(config.file, config.out, layout=config.to)
    elif is_foreign:
        done = import_weights(config.file, config.out, size=config.size, bn_scale=config.bn_scale)
    else:
        raise ValueError(f"{config.file} is a model of ours: say with --to which layout it is to be written in")
    way = "written in" if config.to else "read from"
    print(f"{config.out}: {done.num_parameters:,} parameters, {way} the layout {done.layout}")
    for note in done.notes:
        print(f"  {note}")
    return 0
