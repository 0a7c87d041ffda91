"""photochrom fetch RELEASE"""

from ...pipelines.packing.download import FetchConfig, fetch
from ..configuration.parser import parse_options
from ..console import download_bar


def main(argv: list[str]) -> int:
    config = parse_options(FetchConfig, argv, prog="photochrom fetch", positional=("release",))
    with download_bar(config.release) as progress:
        try:
            archive = fetch(config, progress=progress)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the same command goes on from here") from None
    print(f"{archive} is whole.")
    if config.release == "sun397-partitions":
        print(f"Next: photochrom pack SUN397.tar.gz shards/sun397 --partitions {archive}")
    else:
        print(f"Next: photochrom pack {archive} shards/{config.release}")
    return 0
