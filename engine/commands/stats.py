"""photochrom stats DIR"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ...pipelines import ShardSet
from ...pipelines.output_dir import check_output_file
from ...pipelines.remote import check_local
from ..configuration.parser import parse_options

_NUM_CLASSES = 10  # shown; the manifest has them all
_AS = {"jpeg": "", "lab": ", as Lab in bytes"}


@dataclass(frozen=True, kw_only=True)
class StatsConfig:
    """Says what is in a shard set, and draws how its colours are distributed.

    Args:
        root: Folder of the shard set.
        out: File for the picture; by default ab_distribution.png in that folder.
    """

    root: Path
    out: Path | None = None

    def __post_init__(self) -> None:
        check_local(self.root, "DIR")
        if self.out is not None:
            check_output_file(self.out, ".png", ".svg", ".pdf")


def main(argv: list[str]) -> int:
    config = parse_options(StatsConfig, argv, prog="photochrom stats", positional=("root",))
    from ...pipelines.packing.stats import draw_ab_distribution, stats  # imports torch: not needed for --help

    data = ShardSet.open(config.root)
    found = stats(data)
    table = Table("", "", box=None, show_header=False)
    for row in _rows(found):
        table.add_row(*row)
    Console().print(table)
    picture = config.out or config.root / "ab_distribution.png"
    draw_ab_distribution(data, picture)
    print(f"the distribution of ab: {picture}")
    return 0


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    classes = Counter(found["classes"])
    rows = [
        ("photographs", f"{found['num_photographs']:,}"),
        ("shards", f"{found['num_shards']:,}, {found['bytes'] / 1e9:,.3f} GB"),
        ("stored", f"{found['bytes_per_photograph'] / 1e3:,.1f} KB a photograph{_AS[found['store']]}"),
        *((side, _sizes(found[side])) for side in ("width", "height", "megapixels")),
        ("grey", f"{found['grey_percent']:.2f} % of all pictures; {found['num_grey_dropped']:,} dropped"),
        ("exact duplicates", f"{found['num_duplicates']:,}"),
        ("rejected", f"{found['num_rejected']:,}"),
        ("mean chroma", f"{found['mean_chroma']:.1f} Lab units"),
        ("classes", f"{len(classes):,}"),
    ]
    rows += [(f"  {name or '(none)'}", f"{number:,}") for name, number in classes.most_common(_NUM_CLASSES)]
    if len(classes) > _NUM_CLASSES:
        rows.append(("  and others", f"{len(classes) - _NUM_CLASSES:,}"))
    return rows


def _sizes(spread: dict[str, float]) -> str:
    return f"{spread['min']:g} to {spread['max']:g}, median {spread['median']:g}"
