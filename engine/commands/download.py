"""photochrom download RELEASE"""

from ...pipelines.packing.download import DownloadConfig, download
from ..configuration.parser import parse_options
from ..console import download_bar


def main(argv: list[str]) -> int:
    config = parse_options(DownloadConfig, argv, prog="photochrom download", positional=("release",))
    with download_bar(config.release) as progress:
        try:
            archive = download(config, progress=progress)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the same command continues from here") from None
    print(f"{archive} is complete and has the published checksum.")
    if config.release == "sun397-partitions":
        print(f"Next: photochrom pack SUN397.tar.gz shards/sun397 --partitions {archive}")
    else:
        print(f"Next: photochrom pack {archive} shards/{config.release}")
    return 0
