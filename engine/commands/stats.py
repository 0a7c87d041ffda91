"""photochrom stats DIR"""

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from ...pipelines import ShardSet
from ...pipelines.packing.stats import stats
from ...pipelines.remote import check_local
from ..configuration.parser import parse_options
from ..console import print_table


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
    table = Table("", "", box=None, show_header=False)
    for row in stats(ShardSet.open(config.root)).items():
        table.add_row(*row)
    print_table(table)
    return 0
