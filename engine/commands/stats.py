"""photochrom stats DIR"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ...pipelines import ShardSet
from ...pipelines.packing.stats import stats
from ...pipelines.remote import check_local
from ..configuration.parser import parse_options

_NUM_CLASSES = 10  # shown; the manifest has all
_STORES = {"jpeg": "", "lab": ", as Lab in bytes"}


@dataclass(frozen=True, kw_only=True)
class StatsConfig:
    """Prints the statistics of a shard set.

    Args:
        root: Folder of the shard set.
    """

    root: Path

    def __post_init__(self) -> None:
        check_local(self.root, "DIR")


def main(argv: list[str]) -> int:
    config = parse_options(StatsConfig, argv, prog="photochrom stats", positional=("root",))
    data = ShardSet.open(config.root)
    table = Table("", "", box=None, show_header=False)
    for row in _rows(stats(data)):
        table.add_row(*row)
    Console().print(table)
    return 0


def _rows(values: dict[str, Any]) -> list[tuple[str, str]]:
    classes = Counter(values["classes"])
    rows = [
        ("photographs", f"{values['num_photographs']:,}"),
        ("shards", f"{values['num_shards']:,}, {values['bytes'] / 1e9:,.3f} GB"),
        ("stored", f"{values['bytes_per_photograph'] / 1e3:,.1f} KB per photograph{_STORES[values['store']]}"),
        *((side, _range(values[side])) for side in ("width", "height", "megapixels")),
        ("grey", f"{values['grey_percent']:.2f} % of all photographs; {values['num_grey_dropped']:,} dropped"),
        ("exact duplicates", f"{values['num_duplicates']:,}"),
        ("rejected", f"{values['num_rejected']:,}"),
        ("mean chroma", f"{values['mean_chroma']:.1f} Lab units"),
        ("classes", f"{len(classes):,}"),
    ]
    rows += [(f"  {name or '(none)'}", f"{number:,}") for name, number in classes.most_common(_NUM_CLASSES)]
    if len(classes) > _NUM_CLASSES:
        rows.append(("  and others", f"{len(classes) - _NUM_CLASSES:,}"))
    return rows


def _range(spread: dict[str, float]) -> str:
    return f"{spread['min']:g} to {spread['max']:g}, median {spread['median']:g}"
