"""photochrom colorize [--model MODEL] INPUT..."""

from pathlib import Path
from typing import Any

from ..colorization.config import ColorizeConfig
from ..configuration.parser import parse_options
from ..console import plural, say


def main(argv: list[str]) -> int:
    config = parse_options(ColorizeConfig, argv, prog="photochrom colorize", positional=("inputs",))
    from ..colorization.run import colorize_files, print_failures  # imports torch

    summary = colorize_files(config)
    _report(summary, config.out)
    print_failures(summary["failed"])
    return 1 if summary["num_failed"] else 0


def _report(summary: dict[str, Any], out: Path) -> None:
    """Prints a summary without its failures."""
    from ..colorization.inputs import describe_reasons

    frames = f" ({plural(summary['num_frames'], 'frame')} of video)" if summary["num_frames"] else ""
    say(
        f"{out}: {plural(summary['num_done'], 'file')} colorized{frames} in {summary['seconds']:.1f} s, "
        f"{summary['images_per_second']:.1f} images/s"
    )
    others = {name: summary[f"num_{name}"] for name in ("kept", "failed", "not_taken")}
    if any(others.values()):
        counts = "".join(f", {number:,} {name.replace('_', ' ')}" for name, number in others.items() if number)
        reasons = describe_reasons(other["reason"] for other in summary["not_taken"])
        counts += f" ({reasons})" if reasons else ""
        say(f"  {plural(summary['num_seen'], 'file')} seen: {summary['num_done']:,} colorized{counts}")
    if summary["clipped_share"]:
        say(f"  chroma reduced in {100 * summary['clipped_share']:.1f} % of the pixels: sRGB cannot show the colours")
    if summary["notes"]:
        notes = ", ".join(f"{number} {note}" for note, number in summary["notes"].items())
        say(f"  also changed: {notes}; summary.json lists the files")
