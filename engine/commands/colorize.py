"""photochrom colorize [--model MODEL] INPUT..."""

from pathlib import Path
from typing import Any

from ..colorization.config import ColorizeConfig
from ..configuration.parser import parse_options
from ..console import plural


def main(argv: list[str]) -> int:
    config = parse_options(ColorizeConfig, argv, prog="photochrom colorize", positional=("inputs",))
    from ..colorization.run import colorize_files, print_failures  # imports torch

    summary = colorize_files(config)
    _report(summary, config.out)
    print_failures(summary["failed"])
    return 1 if summary["num_failed"] else 0


def _report(summary: dict[str, Any], out: Path) -> None:
    """Prints a summary without its failures."""
    frames = f" ({plural(summary['num_frames'], 'frame')} of video)" if summary["num_frames"] else ""
    kept = f"; {plural(summary['num_kept'], 'file')} kept" if summary["num_kept"] else ""
    print(
        f"{out}: {plural(summary['num_done'], 'file')} colorized{frames} in {summary['seconds']:.1f} s, "
        f"{summary['images_per_second']:.1f} images/s{kept}"
    )
    if summary["clipped_share"]:
        print(f"  chroma reduced in {100 * summary['clipped_share']:.1f} % of the pixels: sRGB cannot show the colours")
    if summary["notes"]:
        notes = ", ".join(f"{number} {note}" for note, number in summary["notes"].items())
        print(f"  also changed: {notes}; summary.json lists the files")
