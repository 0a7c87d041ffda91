"""photochrom index DIR"""

from typing import Any

from ...pipelines.adopting import IndexConfig, index
from ...pipelines.workers import start_server
from ..config import save_yaml
from ..console import progress_bar
from ..output import plural, say_outcomes, write_json
from ..parser import parse_options


def main(argv: list[str]) -> int:
    config = parse_options(IndexConfig, argv, prog="photochrom index", positional=("root",))
    start_server()  # it loads torch while this process does the same
    from ...losses.quantization import ab_histogram

    def describe(summary: dict[str, Any]) -> None:
        save_yaml(config, config.root / "config.yaml")
        write_json(config.root / "summary.json", summary)

    with progress_bar("indexing") as progress:
        summary = index(config, ab_histogram=ab_histogram, progress=progress, describe=describe)
    print(f"{config.root}: {plural(summary['num_indexed'], 'photograph')} in {plural(summary['num_shards'], 'shard')}")
    say_outcomes([config.root], summary)
    return 0
