"""photochrom index DIR"""

from typing import Any

from ...pipelines.output_dir import write_json
from ...pipelines.packing.index import IndexConfig, index
from ...pipelines.packing.worker_pool import start_server
from ..configuration.config import save_yaml
from ..configuration.parser import parse_options
from ..console import plural, progress_bar, say
from .pack import say_outcomes


def main(argv: list[str]) -> int:
    config = parse_options(IndexConfig, argv, prog="photochrom index", positional=("root",))
    start_server()
    from ...losses import quantization  # noqa: F401  # for the statistics; loads torch while the server does

    def on_summary(summary: dict[str, Any]) -> None:
        save_yaml(config, config.root / "config.yaml")
        write_json(config.root / "summary.json", summary)

    with progress_bar("indexing") as progress:
        summary = index(config, progress=progress, on_summary=on_summary)
    say(f"{config.root}: {plural(summary['num_indexed'], 'photograph')} in {plural(summary['num_shards'], 'shard')}")
    say_outcomes([config.root], summary)
    return 0
