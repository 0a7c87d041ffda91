"""photochrom pack SOURCE OUT"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...pipelines.address import without_secrets
from ...pipelines.output_dir import write_json
from ...pipelines.packing.pack import PackConfig, pack
from ...pipelines.packing.worker_pool import start_server
from ...pipelines.shards import REJECTS
from ..configuration.config import save_yaml
from ..configuration.parser import parse_options
from ..console import plural, progress_bar, say
from . import interrupt_at_signals

_OUTCOMES = ("dropped", "rejected", "not_taken")


def main(argv: list[str]) -> int:
    config = parse_options(PackConfig, argv, prog="photochrom pack", positional=("source", "out"))
    interrupt_at_signals()
    start_server(*config.worker_modules)
    from ...losses import quantization  # noqa: F401  # for the statistics; loads torch while the server does

    shown = without_secrets(str(config.source))

    def on_summary(summary: dict[str, Any]) -> None:
        save_yaml(replace(config, source=shown), config.out / "config.yaml")
        write_json(config.out / "summary.json", summary)

    with progress_bar("packing") as progress:
        summary = pack(config, progress=progress, on_summary=on_summary)
    if summary["num_resumed"]:
        say(f"resumed an interrupted pack after {plural(summary['num_resumed'], 'file')}")
    for root, number in summary["sets"].items():
        say(f"{root}: {plural(number, 'photograph')}")
    say(
        f"{plural(summary['num_shards'], 'shard')}, {summary['bytes'] / 1e6:.1f} MB, "
        f"{summary['images_per_second']:.0f} files/s"
    )
    if summary["num_duplicates"]:
        copies = plural(summary["num_duplicates"], "file")
        say(f"  {copies} with the bytes of another (--drop-duplicates drops them)")
    if summary["num_shared"]:
        say(f"  {plural(summary['num_shared'], 'photograph')} in both sets, under different names")
    if summary["num_missing"]:
        say(f"  {plural(summary['num_missing'], 'photograph')} of the partition are not in {shown}")
    say_outcomes(config.roots.values(), summary)
    return 0


def say_outcomes(folders: Iterable[Path], summary: dict[str, Any]) -> None:
    """Prints what became of all files of a source, and why; `folders` list the rejected ones."""
    for outcome in _OUTCOMES:
        if reasons := ", ".join(f"{number} {reason}" for reason, number in summary[outcome].items()):
            listed = f", listed in {', '.join(str(folder / REJECTS) for folder in folders)}"
            say(f"  {outcome.replace('_', ' ')}: {reasons}{listed if outcome == 'rejected' else ''}")
    for archive, number in summary["unread"].items():
        say(f"  not read: {plural(number, 'byte')} before or behind the content of {archive}")
    taken = "indexed" if "num_indexed" in summary else "packed"
    outcomes = " + ".join(
        f"{summary[f'num_{outcome}']:,} {outcome.replace('_', ' ')}" for outcome in (taken, *_OUTCOMES)
    )
    say(f"  {plural(summary['num_files'], 'file')} = {outcomes}")
