"""photochrom pack SOURCE OUT"""

from ...pipelines.packing import PackConfig, pack
from ...pipelines.workers import start_server
from ..config import save_yaml
from ..console import progress_bar
from ..output import write_json
from ..parser import parse_options


def main(argv: list[str]) -> int:
    config = parse_options(PackConfig, argv, prog="photochrom pack", positional=("source", "out"))
    start_server()  # it loads torch while this process does the same
    from ...losses.quantization import ab_histogram

    with progress_bar("packing") as progress:
        summary = pack(config, ab_histogram=ab_histogram, progress=progress)
    save_yaml(config, config.out / "config.yaml")
    write_json(config.out / "summary.json", summary)
    print(
        f"{config.out}: {summary['num_packed']} photographs in {summary['num_shards']} "
        f"{'shard' if summary['num_shards'] == 1 else 'shards'}, "
        f"{summary['bytes'] / 1e6:.1f} MB, {summary['images_per_second']:.0f} files/s"
    )
    if summary["num_resumed"]:
        print(f"  went on where a pack was interrupted, after {summary['num_resumed']} files")
    for outcome in ("dropped", "rejected"):
        if reasons := ", ".join(f"{number} {reason}" for reason, number in summary[outcome].items()):
            print(
                f"  {outcome}: {reasons}"
                + (f", listed in {config.out / 'rejects.csv'}" if outcome == "rejected" else "")
            )
    return 0
